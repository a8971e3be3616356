"""Micro-batches of similar length for GRPO and RLOO, and the responses that their checkpoints keep."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from hfkit.core.compat_logged import logged_counts, weigh_logged
from hfkit.core.compat_online import OwnRollouts, is_loss_of_step, sampled_batch, set_sampled_batch
from hfkit.core.device import largest_of_processes
from hfkit.core.kept_logs import KeepsLogs
from hfkit.models.adapter_inputs import keep_input_dtype
from hfkit.models.micro_batches import call_tokens, round_up
from hfkit.models.shared_prefixes import token_rows
from hfkit.rlhf.arguments import GRPOArguments, RLOOArguments
from hfkit.rlhf.batch import cut_by_length
from hfkit.rlhf.forward import Model
from hfkit.rlhf.shared_prompts import share_sequences, shared_logprobs, split_sequences
from hfkit.training.micro_batching import TOKEN_MEAN, Batch, has_entropy_term, joins_batches

SUM_LOSSES = ("cispo", "dapo", "vespo")
"""Losses of GRPO that TRL divides by the number of tokens of the whole batch, so that those of micro-batches add up."""


class OnlineBatches(KeepsLogs, OwnRollouts, Trainer):
    """Cuts steps of TRL's GRPOTrainer and RLOOTrainer into micro-batches, and saves their responses in checkpoints.

    A batch of TRL has N prompts, padded on the left, and N responses, padded on the right: `prompt_ids` and
    `prompt_mask` (N, P), `completion_ids` and `completion_mask` (N, R), `advantages` (N,).

    Attributes:
        learned_from: tokens and responses in the loss of each pass of the update, in this process, int64 (2,) each.
        waiting: batches of the current step whose rows are computed with those of its last batch.
        sharing_width: as of `prompt_sharing_width`, if responses to one prompt are computed as one sequence.
    """

    args: GRPOArguments | RLOOArguments
    policy: Model
    learned_from: list[torch.Tensor]
    waiting: list[Batch]
    sharing_width: int | None
    aux_loss_enabled: bool  # TRL's trainers set it
    # TRL's GRPOTrainer sets these two; RLOO has one loss, with the probability ratio of a whole response
    loss_type: str = ""
    importance_sampling_level: str = "sequence"

    @property
    def is_cut(self) -> bool:
        """Whether batches are cut: not if the loss has a term that is neither a sum nor a mean over tokens or rows."""
        return self.args.micro_batches_by_length and not has_entropy_term(self.args) and not self.aux_loss_enabled

    @property
    def is_joined(self) -> bool:
        """Whether the batches of a step are computed as one."""
        args = self.args
        sampled = cast(int, args.steps_per_generation)
        return self.is_cut and joins_batches(self.loss_type, args.gradient_accumulation_steps, sampled)

    def compute_loss(self, model, inputs: Batch, return_outputs: bool = False, num_items_in_batch=None):
        """Return the loss of a batch, a scalar; the gradients of all micro-batches but the last are added already.

        If the batches of a step are computed as one, the last of them has the whole loss.
        """
        joined = 1
        if self.is_joined:
            self.waiting.append(inputs)
            if not self.accelerator.sync_gradients:
                return torch.zeros((), device=self.args.device, requires_grad=True)  # `training_step` calls `backward`
            inputs, joined = join_batches(self.waiting), len(self.waiting)
            self.waiting.clear()
        lengths = inputs["completion_mask"].sum(1)
        self.learned_from.append(torch.stack([lengths.sum(), (lengths > 0).sum()]))
        with keep_input_dtype(self.policy, self.accelerator.native_amp):
            if not self.is_cut:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return self.cut_loss(model, inputs, joined)

    def cut_loss(self, model, inputs: Batch, joined: int) -> torch.Tensor:
        """Return the loss of a batch, computed in micro-batches; see `compute_loss`.

        Args:
            joined: the number of batches whose rows it has.
        """
        parts, before, losses = self.split(inputs), logged_counts(self, "train"), []
        rows = torch.tensor([float(len(part["advantages"])) for part in parts], device=self.args.device)
        tokens = torch.stack([part["completion_mask"].sum().float() for part in parts])
        shares = self.loss_shares(rows, tokens, joined)
        # `training_step` divides what is returned by this number, unless TRL's loss has done so
        steps = 1 if is_loss_of_step(self) else self.current_gradient_accumulation_steps
        for part, share in zip(parts[:-1], shares[:-1], strict=True):
            with self.accelerator.no_sync(model):
                loss = super().compute_loss(model, part) * share
                self.accelerator.backward(loss / steps)
            losses.append(loss.detach())
            self.control = self.callback_handler.on_substep_end(self.args, self.state, self.control)
        loss = super().compute_loss(model, parts[-1]) * shares[-1]
        self.weigh_metrics(before, rows, tokens)
        return loss + sum(losses)

    def loss_shares(self, rows: torch.Tensor, tokens: torch.Tensor, joined: int) -> torch.Tensor:
        """Return the factor of each micro-batch's loss in the loss of the batch, from its rows and tokens, (parts,).

        Losses that are means over a batch are divided by the number of batches of a step, although `joined` are one.
        """
        if self.loss_type in SUM_LOSSES:
            return torch.ones_like(rows)
        counts = tokens if self.loss_type == TOKEN_MEAN else rows
        return joined * counts / counts.sum().clamp(min=1.0)

    def weigh_metrics(self, before: dict[str, int], rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Replace the metrics of micro-batches, logged since `before`, by those of the batch in all processes.

        Most are means over tokens. The weight of VESPO is a mean over rows, as are the clip ratios of whole responses.
        """
        by_rows, by_tokens = (self.accelerator.reduce(counts, "sum").tolist() for counts in (rows, tokens))
        of_rows = ("vespo/", "clip_ratio") if self.importance_sampling_level == "sequence" else ("vespo/",)
        names = [name for name in logged_counts(self, "train") if any(part in name for part in of_rows)]
        weigh_logged(self, "train", before, by_tokens, dict.fromkeys(names, by_rows))

    def split(self, batch: Batch) -> list[Batch]:
        """Return the micro-batches of a batch, equally many in each process, without columns of padding."""
        prompts, replies = (batch[f"{name}_mask"] for name in ("prompt", "completion"))
        parts = self.cut(batch["prompt_ids"], prompts, replies, together=self.accelerator.num_processes > 1)
        multiple = self.args.pad_to_multiple_of
        return [select(batch, torch.tensor(part, device=self.args.device), multiple) for part in parts]

    def cut(self, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, mask: torch.Tensor, together: bool = False):
        """Return the rows of each micro-batch, see `cut_by_length`; rows that share a sequence stay together."""
        prompts, replies = prompt_mask.sum(1).tolist(), mask.sum(1).tolist()
        longest = max(map(sum, zip(prompts, replies, strict=True)))
        sequences = [[row] for row in range(len(replies))]
        if self.sharing_width is not None:
            most = self.args.max_tokens_per_micro_batch or self.args.per_device_train_batch_size * longest
            sequences = share_sequences(self.sharing_width, token_rows(prompt_ids, prompt_mask), replies, most)
            if together:  # as many as there may be micro-batches in another process
                sequences = split_sequences(sequences, largest_of_processes(len(sequences)))
        tokens = [prompts[rows[0]] + sum(replies[row] for row in rows) for rows in sequences]
        parts = cut_by_length(tokens, longest, self.args, call_tokens(self.policy), together)
        return [[row for index in part for row in sequences[index]] for part in parts]

    def predict(self, measure, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **options):
        """Return what TRL's method `measure` returns, with the positions of padded rows, and 0 on padding.

        Without gradients the rows are computed in micro-batches, and only log-probabilities are returned. If responses
        share the sequence of their prompt, `measure` is not used.

        Args:
            input_ids: prompts and responses, (B, P + R).
            attention_mask: (B, P + R).
            logits_to_keep: R.
            batch_size: rows that `measure` computes at once.

        Returns:
            log-probabilities (B, R); entropies (B, R) in nats; router loss. The last two may be None.
        """

        def positioned(attention_mask: torch.Tensor, **inputs):
            positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
            return model(attention_mask=attention_mask, position_ids=positions, **inputs)

        mask = attention_mask[:, -logits_to_keep:]
        if torch.is_grad_enabled() and self.is_cut and self.sharing_width is not None:
            return *self.predict_shared(model, input_ids, attention_mask, logits_to_keep), None
        if torch.is_grad_enabled() or not self.args.micro_batches_by_length:
            logprobs, *others = measure(
                positioned, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **options
            )
            return logprobs.where(mask > 0, 0.0), *others
        prompts, compute = slice(0, input_ids.shape[1] - logits_to_keep), partial(measure, positioned, **options)
        if self.sharing_width is not None:
            compute = partial(self.predict_shared, model)
        logprobs = torch.zeros(mask.shape, device=mask.device)
        for part in self.cut(input_ids[:, prompts], attention_mask[:, prompts], mask):
            index = torch.tensor(part, device=mask.device)
            begin, width = kept_columns(attention_mask[index, prompts], mask[index], self.args.pad_to_multiple_of)
            columns = slice(begin, prompts.stop + width)
            found, *_ = compute(input_ids[index, columns], attention_mask[index, columns], width)
            logprobs[index, :width] = found.where(mask[index, :width] > 0, 0.0).to(logprobs.dtype)
        return logprobs, None, None

    def predict_shared(
        self, model, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `shared_logprobs` under the autocast of training."""
        rows, multiple = (input_ids, attention_mask, logits_to_keep), self.args.pad_to_multiple_of
        with self.accelerator.autocast():
            return shared_logprobs(model, cast(int, self.sharing_width), self.args.temperature, *rows, multiple)

    # Checkpoints

    @property
    def passes_per_batch(self) -> int:
        """Forward and backward passes that learn from one sampled batch of responses."""
        return cast(int, self.args.steps_per_generation) * self.args.num_iterations

    def save_replies(self, folder: str) -> None:
        """Save the responses of this process if later passes learn from them."""
        passes, batches = sampled_batch(self)
        if batches is not None and passes % self.passes_per_batch:
            tensors = {  # safetensors saves no views
                f"{index}.{name}": one.clone() for index, batch in enumerate(batches) for name, one in batch.items()
            }
            save_file(tensors, self.replies_file(folder))

    def load_replies(self, folder: str) -> None:
        """Load what `save_replies` saved, if it saved anything."""
        if not (file := self.replies_file(folder)).is_file():
            return
        batches: list[dict[str, Any]] = [{} for _ in range(cast(int, self.args.steps_per_generation))]
        for key, tensor in load_file(file).items():
            index, _, name = key.partition(".")
            batches[int(index)][name] = tensor.to(self.args.device)
        set_sampled_batch(self, sampled_batch(self)[0], batches)

    def replies_file(self, folder: str) -> Path:
        """Return the file of this process in a checkpoint."""
        return Path(folder, f"replies_{self.args.process_index}.safetensors")


def kept_columns(prompt_mask: torch.Tensor, mask: torch.Tensor, multiple: int | None = None) -> tuple[int, int]:
    """Return the first of the P columns that is not padding in all rows, and how many of the R columns to keep.

    These are the columns of the longest response, but at least two: TRL's metrics treat a single column as a value
    of the whole response, and ignore its mask.

    Args:
        prompt_mask: (B, P).
        mask: of the responses, (B, R).
        multiple: of which the columns of prompts, and those of responses, are to be a multiple, as P and R are.
    """
    prompt, longest = int(prompt_mask.sum(1).max()), max(int(mask.sum(1).max()), 2)
    return prompt_mask.shape[1] - round_up(prompt, multiple), min(round_up(longest, multiple), mask.shape[1])


def join_batches(batches: list[Batch]) -> Batch:
    """Return the rows of batches that were sampled together, with equally many columns, as one batch."""
    first = batches[0]
    return {name: torch.cat([one[name] for one in batches]) if first[name].ndim else first[name] for name in first}


def select(batch: Batch, index: torch.Tensor, multiple: int | None = None) -> Batch:
    """Return rows of a batch of TRL, without the columns that are padding in all of them."""
    begin, width = kept_columns(batch["prompt_mask"][index], batch["completion_mask"][index], multiple)
    part = {name: values[index] if values.ndim else values for name, values in batch.items()}
    for name in ("prompt_ids", "prompt_mask"):
        part[name] = part[name][:, begin:]
    for name in ("completion_ids", "completion_mask", "old_per_token_logps", "ref_per_token_logps"):
        if name in part:
            part[name] = part[name][:, :width]
    return part
