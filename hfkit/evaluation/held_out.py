"""Rows that no training saw: found by a run's record, or named; and how likely a language model finds them."""

from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.caching import tokenizer_hash
from hfkit.data.comparisons import COMPARISONS, REPLY_TOO_LONG, comparison_encoder, encode_held_out
from hfkit.data.conversions import prompt_of
from hfkit.data.forms import (
    IGNORE,
    INSTRUCTIONS,
    TEXT,
    encode_instructions,
    instruction_encoder,
)
from hfkit.data.messages import Messages
from hfkit.data.splits import SplitStats, load_rows, load_splits
from hfkit.models.generation import logits_from
from hfkit.records.record import record_of


@dataclass
class HeldOut:
    """Held-out rows as they are in their files, comparisons or else instructions and texts, and their account.

    Args:
        max_length: the most tokens that a row may have.
    """

    rows: Dataset
    account: SplitStats
    are_pairs: bool
    max_length: int

    def encoded(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None) -> tuple[Dataset, SplitStats]:
        """The rows as their stage encodes them, none longer than `context`, and what became of them.

        Raises:
            HfkitError: none can be.
        """
        length = min(self.max_length, context or self.max_length)
        options = {"max_length": length, "dataset_num_proc": None, "max_dropped": 1.0, "score_margin": 0.0}
        options = SimpleNamespace(**options)
        account = replace(self.account, dropped=dict(self.account.dropped))
        encode = partial(encode_held_out, as_rankings=False) if self.are_pairs else encode_instructions
        return encode(self.rows, tokenizer, account, options), account

    def shared_by(self, readers: list[tuple[PreTrainedTokenizerBase, int | None]]) -> "HeldOut":
        """What several models can be compared on, each given by its tokenizer and its context.

        No row is longer than the shortest context; where tokenizers differ, rows that one of them would cut or drop are
        left out for all.

        Raises:
            HfkitError: nothing is left.
        """
        limit = min([self.max_length, *(context for _, context in readers if context)])
        alike = replace(self, max_length=limit)
        if len({tokenizer_hash(tokenizer) for tokenizer, _ in readers}) == 1:
            return alike
        whole = np.logical_and.reduce([alike.whole(tokenizer) for tokenizer, _ in readers])
        if not whole.any():
            raise HfkitError(f"no held-out row fits into {limit} tokens of each model: evaluate them one by one")
        places, lost = np.flatnonzero(whole), int((~whole).sum())
        account = replace(self.account, kept=len(places), dropped={"not whole for every model": lost} if lost else {})
        return replace(alike, rows=self.rows.select(places), account=account)

    def whole(self, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
        """(N,) whether a tokenizer gives each row in full."""
        encoder = (
            comparison_encoder(tokenizer, self.max_length, self.rows)
            if self.are_pairs
            else instruction_encoder(tokenizer, self.max_length)
        )
        accounts = encoder(self.rows, self.account.name, None).select_columns(["dropped", "cut", "faults"])
        return np.array([not (one["dropped"] or one["cut"] or REPLY_TOO_LONG in one["faults"]) for one in accounts])


def find_held_out(
    record: dict, are_pairs: bool, limit: int, entries: list[DatasetEntry] | None = None, seed: int | None = None
) -> HeldOut:
    """Held-out rows of a run, `limit` at most.

    Args:
        record: the run's; PPO's rows have no replies, so a run of PPO has those of its SFT model.
        are_pairs: whether it is a reward model's run.
        entries: data sets in place of those that the record names.
        seed: of the choice among more rows than `limit`; None takes the first ones.

    Raises:
        HfkitError: none were held out, they cannot be read, or they are no longer those that were held out.
    """
    if record.get("stage") == "ppo" and not entries:
        sft = record["lineage"][0]
        record = record_of(sft["path"], sft["revision"] or "main") or {}
    settings = record.get("config", {})
    reads = COMPARISONS if are_pairs else TEXT if record.get("stage") == "pretrain" and not entries else INSTRUCTIONS
    held_out = entries or [DatasetEntry(**entry) for entry in settings.get("eval_datasets") or []]
    if held_out:
        rows, account = load_rows("test", held_out, reads, seed=record.get("seed") or 0)
        rows = account.capped(rows)
        known = record.get("data", {}).get("test")
    elif settings.get("test_split_size"):
        split = SimpleNamespace(eval_datasets=None, test_split_size=settings["test_split_size"], seed=record["seed"])
        split.datasets = [DatasetEntry(**entry) for entry in settings["datasets"]]
        _, rows, accounts = load_splits(split, reads)
        account, known = accounts["train"], record["data"]["train"]
    else:
        raise HfkitError("its record names no held-out rows")
    if not entries and [one["sha256"] for one in known["sources"]] != [o["sha256"] for o in account.sources]:
        raise HfkitError("the rows that were held out are others by now")
    if len(rows) > limit:
        chosen = range(limit) if seed is None else np.random.default_rng(seed).choice(len(rows), limit, replace=False)
        rows = rows.select(sorted(chosen))
    account = SplitStats("test", account.sources, len(rows), len(rows))
    return HeldOut(rows, account, are_pairs, settings.get("max_length") or settings.get("block_size") or 1024)


def asked_of(row: dict) -> tuple[str | Messages, str | None] | None:
    """What a row asks, and the reply that it has, if it is text; None where it asks nothing."""
    prompt, turns = prompt_of(row), row.get("messages") or []
    if not prompt:
        return None
    reply = turns[len(prompt)]["content"] if len(turns) > len(prompt) else row.get("response") or row.get("completion")
    return prompt, reply if isinstance(reply, str) else None


@dataclass
class TextLikelihoods:
    """Of each text (N,): negative log-likelihood in nats, tokens that were predicted, bytes of them in UTF-8."""

    nats: np.ndarray
    tokens: np.ndarray
    sizes: np.ndarray


@torch.no_grad()
def text_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, batch_size: int = 8
) -> TextLikelihoods:
    """How likely a model finds the labelled tokens of encoded rows.

    A text from its first token on is taken to follow an end of text, as in pretraining.
    """
    figures = []
    model.eval()
    for batch in rows.iter(batch_size):
        pairs = [in_context(*pair, tokenizer) for pair in zip(batch["input_ids"], batch["labels"], strict=True)]
        ids = {"input_ids": [ids for ids, _ in pairs]}
        padded = tokenizer.pad(ids, padding_side="right", return_tensors="pt").to(model.device)
        read = min(next((at for at, label in enumerate(labels[1:]) if label != IGNORE), 0) for _, labels in pairs)
        logits, first = logits_from(model, padded, read)
        for row, (_, labels) in enumerate(pairs):
            wanted = torch.tensor(labels[1 + first :], device=logits.device)
            said = logits[row, : len(wanted)].float()
            nats = torch.nn.functional.cross_entropy(said, wanted, ignore_index=IGNORE, reduction="sum")
            predicted = [label for label in labels[1:] if label != IGNORE]
            text = tokenizer.decode(predicted, skip_special_tokens=True)
            figures.append((float(nats), len(predicted), len(text.encode())))
    return TextLikelihoods(*map(np.array, zip(*figures, strict=True)))


def in_context(ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids and labels, after an end of text where the first token itself is to be predicted.

    That row then lacks its last id, from which nothing is predicted: it is no longer than it was.
    """
    if labels[0] == IGNORE or ids[0] in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return ids, labels
    return [tokenizer.eos_token_id, *ids[:-1]], [IGNORE, *labels]
