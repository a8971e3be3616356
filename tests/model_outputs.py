"""Computes outputs of models for a few fixed tokens."""

import torch

import hfkit

IDS = torch.arange(5, 21)[None]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS.to(model.device)).logits.cpu()


def last_hidden(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS.to(model.device), output_hidden_states=True).hidden_states[-1].cpu()


def logits_at(path) -> torch.Tensor:
    """Return the logits of the policy at a path."""
    return logits(hfkit.load_policy(str(path))[0])
