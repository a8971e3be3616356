"""Responses to one prompt in one sequence: the log-probabilities of separate ones, from fewer tokens."""

import pytest
import torch
from ppo_small import models
from small_models import SETTINGS, model_of

from hfkit.rlhf.batch import Tokens
from hfkit.rlhf.shared_prompts import prompt_sharing_width, share_sequences, shared_logprobs, split_sequences

SHORT, LONG = [7, 8], [20, 21, 22, 23, 24, 25, 26, 27, 28, 29]
ROWS = [(LONG, [5]), (SHORT, [6, 9, 11]), (LONG, [5, 12]), (LONG, []), (SHORT, [6, 9]), (LONG, [40, 41, 42])]
ALONE = ("recurrent", "attention and recurrent", "gemma2")  # the last has eager attention


def padded(rows: list, device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Rows as TRL passes them: ids, their mask, columns of the responses."""
    batch = Tokens.from_lists(*map(list, zip(*rows, strict=True)), 0, device)
    ids, mask = torch.cat([batch.prompts, batch.replies], 1), torch.cat([batch.prompt_mask, batch.mask], 1)
    return ids, mask.long(), batch.replies.shape[1]


def logprobs_of_row(model, prompt: list[int], reply: list[int], temperature: float) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *reply]], device=model.device)).logits[0] / temperature
    columns = range(len(prompt) - 1, len(prompt) + len(reply) - 1)
    return torch.stack([logits[at].log_softmax(-1)[token] for at, token in zip(columns, reply, strict=True)])


@pytest.mark.any_device
@pytest.mark.parametrize("family", [family for family in SETTINGS if family not in ALONE])
def test_log_probabilities_and_gradients_are_those_of_separate_rows(family):
    model, rows = model_of(family, 64, spread=0.3), [(prompt[-4:], reply[:2]) for prompt, reply in ROWS]
    assert prompt_sharing_width(model, LONG[-4:], 2)  # 6 tokens, the window of models that have one
    direction = torch.arange(1.0, 1 + sum(len(reply) for _, reply in rows), device=model.device)
    sizes = []
    handle = model.register_forward_pre_hook(
        lambda module, given, inputs: sizes.append(inputs["input_ids"].shape), with_kwargs=True
    )
    ids, mask, width = padded(rows, model.device)
    logprobs, entropies = shared_logprobs(model, 32, 0.7, ids, mask, width)
    handle.remove()
    assert sizes[-1][0] == 2 and sizes[-1].numel() < ids.numel()
    replied = mask[:, -width:] > 0
    assert not logprobs[~replied].any() and (entropies[replied] > 0).all() and not entropies.requires_grad
    (logprobs[replied] * direction).sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    expected = torch.cat([logprobs_of_row(model, *row, 0.7) for row in rows if row[1]])
    torch.testing.assert_close(logprobs[replied], expected, rtol=1e-4, atol=1e-5)
    (expected * direction).sum().backward()
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(gradients[name], weight.grad, rtol=0, atol=1e-4 * float(weight.grad.abs().max()))


def test_rows_without_any_response_have_a_gradient_of_zero():
    policy = models("llama", lora=True)[0]
    ids, mask, width = padded([(LONG, [5, 6]), (SHORT, [5])], "cpu")
    mask[:, -width:] = 0  # as mask_truncated_completions does
    logprobs, _ = shared_logprobs(policy, 32, 1.0, ids, mask, width)
    assert logprobs.shape == (2, 2) and not logprobs.any()
    logprobs.sum().backward()
    assert not any(one.grad is not None and one.grad.any() for one in policy.parameters())


@pytest.mark.parametrize("family", [*ALONE, "sliding window", "gemma3"])
def test_models_that_would_compute_something_else_share_nothing(family):
    assert prompt_sharing_width(model_of(family, 64), LONG, 2) is None


@pytest.mark.parametrize(
    ("prompt", "replies", "most", "sizes"),
    [
        (200, [20] * 4, 1000, [4]),  # 280 tokens instead of 880
        (4, [100] * 4, 1000, [1, 1, 1, 1]),  # nothing to save, but attention between more tokens
        (60, [60] * 4, 1000, [2, 2]),
        (200, [20] * 4, 240, [2, 2]),
        (200, [20] * 4, 100, [1, 1, 1, 1]),
    ],
)
def test_as_many_rows_share_a_sequence_as_saves_time(prompt, replies, most, sizes):
    rows = share_sequences(32, [[1] * prompt] * len(replies), replies, most)
    assert [len(one) for one in rows] == sizes
    assert sorted(row for one in rows for row in one) == [*range(len(replies))]


def test_rows_of_other_prompts_share_nothing():
    assert share_sequences(32, [LONG, SHORT, LONG], [1, 1, 1]) == [[0, 2], [1]]


def test_sequences_are_halved_until_there_are_enough():
    assert split_sequences([[0, 1, 2, 3], [4]], 4) == [[4], [2, 3], [0], [1]]
    assert split_sequences([[0, 1], [2]], 2) == [[0, 1], [2]]
