"""Clocks of a training loop, and its arithmetic as a share of what a matrix product reaches on the same device."""

import time

import torch
from transformers import Trainer, TrainerCallback


class Clock:
    """Wall seconds and CPU seconds (of all threads of the process) of a block, the device's work included."""

    def __enter__(self):
        self.started = self.now()
        return self

    def __exit__(self, *_):
        self.seconds, self.cpu_seconds = (end - start for end, start in zip(self.now(), self.started, strict=True))

    @staticmethod
    def now() -> tuple[float, float]:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


class TimedSteps(TrainerCallback):
    """Times the steps of a training loop from the end of step `warm` to the end of the last one."""

    def __init__(self, warm: int):
        self.warm, self.clock = warm, Clock()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.warm:
            self.clock.__enter__()
        if state.global_step == state.max_steps:
            self.clock.__exit__()


def training_time(trainer: Trainer, warm: int) -> tuple[float, float]:
    """Trains; returns the wall seconds and the CPU seconds of the steps after the first `warm`."""
    timed = TimedSteps(warm)
    trainer.add_callback(timed)
    trainer.train()
    return timed.clock.seconds, timed.clock.cpu_seconds


def model_flop(model, lengths: list[int]) -> float:
    """The floating-point operations that training on sequences of these lengths takes, if nothing is recomputed.

    6 a trained parameter and token: 2 in the forward pass, 4 in the backward pass (Kaplan et al. 2020, arXiv
    2001.08361, 2.1); 4 a frozen one, which has no gradient. Attention: 6 x layers x width x length^2, which
    leaves out what the causal mask hides (Dao 2023, arXiv 2307.08691, 4.1). The
    embedding counts only if it is the head too.
    """
    config, embedding = model.config.get_text_config(), model.get_input_embeddings().weight
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    trained = model.num_parameters(only_trainable=True)
    frozen = model.num_parameters() - trained
    looked_up = 0 if head is not None and head.weight is embedding else embedding.numel()
    trained -= looked_up if embedding.requires_grad else 0
    frozen -= 0 if embedding.requires_grad else looked_up
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    attention = 6 * config.num_hidden_layers * width * sum(length**2 for length in lengths)
    return (6 * trained + 4 * frozen) * sum(lengths) + attention


def product_flop_per_second(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> tuple[float, float]:
    """Operations a wall second and a CPU second of a product of square matrices."""
    size = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    one @ other
    count = 0
    with Clock() as clock:
        while clock.now()[0] < clock.started[0] + seconds:  # a GPU has finished what came before when it says the time
            one @ other
            count += 1
    flop = 2 * size**3 * count
    return flop / clock.seconds, flop / clock.cpu_seconds
