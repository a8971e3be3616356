"""Scores responses with a reward model."""

import os

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfkit.core.errors import HfkitError
from hfkit.core.unwrap import without_adapter
from hfkit.data.chat_template import encode_replies, encode_sampled
from hfkit.data.messages import Messages, RenderError, tools_of
from hfkit.data.rendering import variables_of
from hfkit.models.fitting import require_vocabulary
from hfkit.models.loading import load_classifier
from hfkit.models.micro_batches import batches_by_length, call_tokens
from hfkit.models.reward_sources import reward_source
from hfkit.models.score_head import compute_head_in_float32
from hfkit.models.shared_prefixes import padded_sequences, reply_states, sequence_of
from hfkit.models.tokenizers import load_tokenizer


class RewardModel:
    """A reward model with its tokenizer: `reward(prompts, replies)`.

    The score of a response does not depend on its batch: rows are padded on the right, and the head reads the last
    token of each. (Transformers' classifiers read the last token that is not the pad token, but some models end their
    responses with it.) The head computes in float32, whatever the dtype of the layers below it.

    Args:
        model: sequence classifier with one label.
        tokenizer: with a pad token that is not its EOS.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase):
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        self.model, self.tokenizer = compute_head_in_float32(model).eval(), tokenizer

    @torch.no_grad()
    def __call__(
        self, prompts: list[str | Messages], replies: list[str | Messages], batch_size: int = 16
    ) -> torch.Tensor:
        """Return rewards, float32 (N,) on the CPU; prompts are user turns or messages, responses assistant turns."""
        pairs = zip(prompts, replies, strict=True)
        rows = [encode_replies(self.tokenizer, prompt, [reply])[0] for prompt, reply in pairs]
        return self.score_ids(rows, batch_size)

    @torch.no_grad()
    def score_sampled(self, rows: list[dict], replies: list[str], batch_size: int = 16) -> torch.Tensor:
        """Return rewards of sampled responses, float32 (N,) on the CPU.

        Args:
            rows: each with the `prompt` of a response, and optional inputs of the template: `tools`,
                `chat_template_kwargs`.

        Raises:
            HfkitError: the template rejects a prompt.
        """
        try:
            ids = [
                encode_sampled(self.tokenizer, row["prompt"], reply, tools_of(row.get("tools")), variables_of(row))
                for row, reply in zip(rows, replies, strict=True)
            ]
        except RenderError as error:
            raise HfkitError(f"the reward model's chat template cannot render a prompt: {error}") from error
        return self.score_ids(ids, batch_size)

    @torch.no_grad()
    def score_ids(self, rows: list[list[int]], batch_size: int = 16) -> torch.Tensor:
        """Return rewards of rendered conversations, each a list of token ids; float32 (N,) on the CPU."""
        rewards, lengths = torch.zeros(len(rows)), [*map(len, rows)]
        classifier = without_adapter(self.model)
        backbone, device = classifier.base_model, self.model.device
        for indices in batches_by_length(lengths, batch_size, call_tokens(self.model)):
            sequences = [sequence_of([rows[index]]) for index in indices]
            batch = padded_sequences(sequences, self.tokenizer.pad_token_id)
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            states = reply_states(backbone, backbone, batch)
            rewards[indices] = classifier.score(states).squeeze(-1).float().cpu()
        return rewards


def load_reward(path: str | os.PathLike, revision: str = "main", **options) -> RewardModel:
    """Load the reward model at a folder or Hub id, adapter or full, with its trained head.

    Args:
        options: as for `load_policy`, including `base`.

    Raises:
        HfkitError: the path has no reward model with one label, or its head is missing.
    """
    path = os.fspath(path)
    tokenizer = load_tokenizer(path, revision)
    require_vocabulary(reward_source(path, revision, options.get("base")), tokenizer)
    return RewardModel(load_classifier(path, revision, **options), tokenizer)
