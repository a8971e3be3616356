"""How a trainer sends weights before vLLM 0.28, which has none of these functions and arguments."""

from dataclasses import dataclass

import vllm
from vllm.distributed.weight_transfer import nccl_common


class NCCLWeightTransferEngine:
    """The server's side."""


if vllm.__version__ < "0.28":

    @dataclass
    class NCCLTrainerSendWeightsArgs:
        """The arguments of `trainer_send_weights`."""

        group: nccl_common.Communicator
        packed: bool = False

    class NCCLWeightTransferEngine:
        """Also the trainer's side."""

        trainer_init = staticmethod(nccl_common.trainer_init)

        @staticmethod
        def trainer_send_weights(iterator, trainer_args: NCCLTrainerSendWeightsArgs) -> None:
            """Send tensors."""
            assert trainer_args.packed
            nccl_common.send((tensor for _, tensor in iterator), trainer_args.group)
