"""Replies of models to prompts, each sampled once: `replies.jsonl` keeps them with how likely they were."""

import gc
from dataclasses import asdict, dataclass
from functools import cached_property

from hfkit.core.console import say
from hfkit.core.errors import HfkitError, reason
from hfkit.core.files import hash_of
from hfkit.core.progress import progress
from hfkit.data.chat_template import encode_prompt
from hfkit.data.messages import Messages
from hfkit.evaluation.lines import Lines
from hfkit.models.generation import generate_replies, likelihoods, stop_ids
from hfkit.models.loading import cached_config, load_policy, load_tokenizer
from hfkit.records.record import model_identity
from hfkit.records.source import Source

REPLIES = "replies.jsonl"


@dataclass(frozen=True)
class Sampling:
    """How replies are sampled: `temperature` 0 takes the likeliest token, else it is the only processor."""

    max_new_tokens: int
    temperature: float
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """A reply: token ids up to the one that ended it if it came, text, and sums over its tokens, in nats.

    `logprob` and `entropy` are of the distribution that it was sampled from; of a greedy reply, that at temperature 1.
    """

    ids: list[int]
    text: str
    logprob: float
    entropy: float


class Subject:
    """A language model under evaluation; its weights are loaded when they are first needed.

    Args:
        name: in tables and files.
        path, revision: folder or Hub id, full or adapter.
        dtype: of the weights.

    Raises:
        HfkitError: its tokenizer cannot be read.
    """

    def __init__(self, name: str, path: str, revision: str = "main", dtype: str = "float32"):
        self.name, self.path, self.revision, self.dtype = name, path, revision, dtype
        try:
            self.tokenizer = load_tokenizer(path, revision)
        except (OSError, ValueError) as error:
            raise HfkitError(f"the tokenizer of {path} cannot be read: {reason(error)}") from error

    @cached_property
    def model(self):
        """The causal LM, in eval mode."""
        say(f"loading {self.name}: {self.path}")
        return load_policy(self.path, self.revision, dtype=self.dtype)[0]

    @cached_property
    def identity(self) -> list:
        """Which weights reply: their dtype, its own, and those of its base."""
        source = Source.of(self.path, self.revision)
        places = [(source.path, source.revision), (source.base, source.base_revision)]
        identities = [model_identity(*place) for place in places]
        return [self.dtype, *(one["weights_sha256"] or (one["path"], one["revision"]) for one in identities)]

    @property
    def context(self) -> int | None:
        """Tokens that fit into it, or None without a limit."""
        return getattr(cached_config(self.path, self.revision).get_text_config(), "max_position_embeddings", None)

    def unload(self) -> None:
        """Frees the weights."""
        self.__dict__.pop("model", None)
        gc.collect()  # a model refers to itself, and a GPU may have no room for two

    def encode(self, prompt: str | Messages) -> list[int]:
        """Token ids of a prompt, ready to be replied to.

        Without a chat template it is the text of its turns, an empty line between them.
        """
        if not self.tokenizer.chat_template and not isinstance(prompt, str):
            prompt = "\n\n".join(turn["content"] for turn in prompt) + "\n\n"
        return encode_prompt(self.tokenizer, prompt)


def sample_once(
    subject: Subject, prompts: list[list[int]], sampling: Sampling, kept: Lines, batch_size: int, copies: int = 1
) -> list[Reply]:
    """Replies to prompts: those that `kept` has, the others sampled and kept batch by batch.

    A batch draws from a seed of its own, so what was interrupted ends with the replies of an uninterrupted run; what is
    kept stays as it is, also where others of its batch are missing.

    Args:
        prompts: token ids.
        copies: replies to each prompt; first one to each, then another to each.
    """
    settings = [subject.identity, asdict(sampling)]
    keys = [hash_of([*settings, copy, prompt]) for copy in range(copies) for prompt in prompts]
    prompts = prompts * copies
    # the longest first: what does not fit into memory is told at once, and the estimate errs to the safe side
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    missing = [batch for batch in batches if any(keys[place] not in kept for place in batch)]
    for batch in progress(missing, f"{subject.name}: replies", batch_size, len(prompts)):
        rows = [prompts[place] for place in batch]
        replies = sample_batch(subject, rows, sampling, hash_of([keys[place] for place in batch]))
        new = zip(batch, replies, strict=True)
        kept.add({keys[place]: asdict(reply) for place, reply in new if keys[place] not in kept})
    fields = Reply.__dataclass_fields__
    return [Reply(**{name: kept[key][name] for name in fields}) for key in keys]


def sample_batch(subject: Subject, prompts: list[list[int]], sampling: Sampling, name: str) -> list[Reply]:
    """Replies to one batch of prompts, with a seed made of the batch's name."""
    model, tokenizer, temperature = subject.model, subject.tokenizer, sampling.temperature
    ids = generate_replies(
        model,
        tokenizer,
        prompts,
        sampling.max_new_tokens,
        temperature,
        seed=int(name[:8], 16),
        batch_size=len(prompts),
        stops=stop_ids(model.generation_config, tokenizer),
    )
    said = likelihoods(model, tokenizer, prompts, ids, temperature)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [
        Reply(reply, text.strip(), float(one.logprobs.sum()), float(one.entropy.sum()))
        for reply, text, one in zip(ids, texts, said, strict=True)
    ]
