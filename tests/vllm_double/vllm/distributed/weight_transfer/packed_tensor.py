"""How a trainer sends weights since vLLM 0.28."""

from vllm.distributed.weight_transfer.nccl_common import Communicator, send


def packed_nccl_broadcast_producer(iterator, group: Communicator, src: int, post_iter_func) -> None:
    """Send tensors."""
    assert src == 0
    send(map(post_iter_func, iterator), group)
