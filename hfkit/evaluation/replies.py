"""Samples responses of models to prompts; `replies.jsonl` keeps them with their likelihoods."""

import gc
from dataclasses import asdict, dataclass
from functools import cached_property

from hfkit.core.console import say, warn
from hfkit.core.files import hash_of
from hfkit.core.progress import track_progress
from hfkit.data.chat_template import encode_prompt, turn_end_ids
from hfkit.data.messages import Messages
from hfkit.evaluation.results_file import ResultsFile
from hfkit.models.engines import ENGINES
from hfkit.models.generation import Engine, generate_replies, likelihoods, stop_ids
from hfkit.models.loading import cached_config, load_policy
from hfkit.models.model_config import context_tokens
from hfkit.models.tokenizers import load_tokenizer, variables_fault
from hfkit.records.record import model_identity
from hfkit.records.source import Source

REPLIES = "replies.jsonl"
SUBJECT_KEYS = ("dtype", "chat_template_kwargs", "system_prompt", "rollout_engine")
"""The config keys that a `Subject` takes."""


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled: greedily at `temperature` 0; otherwise temperature is the only logits processor."""

    max_new_tokens: int
    temperature: float
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """A sampled response.

    Args:
        ids: token ids, including the stop token if there is one.
        text: without special tokens.
        logprob, entropy: sums over its tokens, in nats, under the distribution that it was sampled from; for a greedy
            response, that at temperature 1.
    """

    ids: list[int]
    text: str
    logprob: float
    entropy: float


class Subject:
    """A language model or an adapter under evaluation; its weights are loaded when they are first needed.

    Args:
        chat_template_kwargs, system_prompt: of its chat template, instead of those of its training.

    Raises:
        HfkitError: its tokenizer cannot be read.
    """

    def __init__(
        self,
        name: str,
        path: str,
        revision: str = "main",
        dtype: str = "float32",
        chat_template_kwargs: dict | None = None,
        system_prompt: str | None = None,
        rollout_engine: str = "generate",
    ):
        self.name, self.path, self.revision, self.dtype = name, path, revision, dtype
        self.rollout_engine = rollout_engine
        options = {"chat_template_kwargs": chat_template_kwargs, "system_prompt": system_prompt}
        self.tokenizer = load_tokenizer(path, revision, **options)
        if fault := variables_fault(self.tokenizer, chat_template_kwargs or {}):
            warn(f"{path}: {fault}")

    @cached_property
    def model(self):
        """The causal LM, in eval mode."""
        say(f"loading {self.name}: {self.path}")
        return load_policy(self.path, self.revision, dtype=self.dtype)[0]

    @cached_property
    def engine(self) -> Engine:
        """The engine that samples from the model."""
        return ENGINES[self.rollout_engine](self.model, self.tokenizer)

    @cached_property
    def identity(self) -> list:
        """The identity of the weights: their dtype, the model, and its base."""
        source = Source.of(self.path, self.revision)
        models = [(source.path, source.revision), (source.base, source.base_revision)]
        identities = [model_identity(*model) for model in models]
        return [self.dtype, *(one["weights_sha256"] or (one["path"], one["revision"]) for one in identities)]

    @property
    def context(self) -> int | None:
        """The longest context in tokens; None if unlimited."""
        return context_tokens(cached_config(self.path, self.revision))

    def unload(self) -> None:
        """Free the weights."""
        for name in ("engine", "model"):
            self.__dict__.pop(name, None)
        gc.collect()  # models are in reference cycles, and a GPU may have no room for two

    def encode(
        self, prompt: str | Messages, tools: list[dict] | None = None, variables: dict | None = None
    ) -> list[int]:
        """Return the token ids of a prompt, ready to generate from.

        Without a chat template, a conversation is the text of its messages with an empty line between them.
        """
        if not self.tokenizer.chat_template and not isinstance(prompt, str):
            prompt = "\n\n".join(message["content"] for message in prompt) + "\n\n"
        return encode_prompt(self.tokenizer, prompt, tools, variables)


def load_or_sample(
    subject: Subject, prompts: list[list[int]], sampling: Sampling, saved: ResultsFile, batch_size: int, copies: int = 1
) -> list[Reply]:
    """Return responses to prompts: the saved ones; the others are sampled and saved batch by batch.

    Each batch has its own seed, so that a resumed run ends with the responses of an uninterrupted one. A saved response
    is never replaced, even if others of its batch are missing. Warns if no response has ended.

    Args:
        copies: responses to each prompt; first one to each prompt, then another to each.
    """
    settings = [subject.identity, asdict(sampling)]
    keys = [hash_of([*settings, copy, prompt]) for copy in range(copies) for prompt in prompts]
    prompts = prompts * copies
    # the longest first: a batch that exceeds the memory fails at once, and the remaining time is not underestimated
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    missing = [batch for batch in batches if any(keys[index] not in saved for index in batch)]
    for batch in track_progress(missing, f"{subject.name}: responses", batch_size, len(prompts)):
        rows = [prompts[index] for index in batch]
        replies = sample_batch(subject, rows, sampling, hash_of([keys[index] for index in batch]))
        new = zip(batch, replies, strict=True)
        saved.add({keys[index]: asdict(reply) for index, reply in new if keys[index] not in saved})
    fields = Reply.__dataclass_fields__
    replies = [Reply(**{name: saved[key][name] for name in fields}) for key in keys]
    if replies and not any(have_ended(subject, replies, sampling)):
        warn(
            f"none of the {len(replies):,} responses of {subject.name} ended within response_length="
            f"{sampling.max_new_tokens}: raise it if they are cut in mid-sentence; otherwise the model has not learned "
            "to write the token that ends a response"
        )
    return replies


def have_ended(subject: Subject, replies: list[Reply], sampling: Sampling) -> list[bool]:
    """Return whether each response ended before the limit on its length, or with a token that ends responses."""
    ends = turn_end_ids(subject.tokenizer)
    return [len(reply.ids) < sampling.max_new_tokens or reply.ids[-1] in ends for reply in replies]


def sample_batch(subject: Subject, prompts: list[list[int]], sampling: Sampling, name: str) -> list[Reply]:
    """Sample responses to one batch of prompts, with a seed made of the batch's name, a hexadecimal hash."""
    model, tokenizer, temperature = subject.model, subject.tokenizer, sampling.temperature
    seed, stop_token_ids = int(name[:8], 16), stop_ids(model.generation_config, tokenizer)
    length, size = sampling.max_new_tokens, len(prompts)
    limits = (length, temperature, seed, size, stop_token_ids)
    ids = generate_replies(model, tokenizer, prompts, *limits, engine=subject.engine)
    scored = likelihoods(model, tokenizer, prompts, ids, temperature)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [
        Reply(reply, text.strip(), float(one.logprobs.sum()), float(one.entropy.sum()))
        for reply, text, one in zip(ids, texts, scored, strict=True)
    ]
