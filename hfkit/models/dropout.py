"""Turns off the dropout that TRL's `disable_dropout` does not find."""

import torch


def turn_off_dropout(module: torch.nn.Module) -> None:
    """Set the dropout probabilities to 0 that a module passes to functions, such as OPT's `dropout`."""
    for name, value in vars(module).items():
        if isinstance(value, float) and "drop" in name:
            setattr(module, name, 0.0)
