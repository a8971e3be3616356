"""GRPO's and RLOO's batches in micro-batches of like length, and the replies that a checkpoint keeps."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from hfkit.core.compat import logged_counts, weigh_logged
from hfkit.core.compat_online import OwnRollouts, sampled_batch, set_sampled_batch
from hfkit.core.kept_logs import KeepsLogs
from hfkit.models.micro_batches import call_tokens
from hfkit.rlhf.arguments import GRPOArguments, RLOOArguments
from hfkit.rlhf.batch import cut_by_length
from hfkit.rlhf.forward import Model
from hfkit.training.micro_batching import Batch

SUMS = ("cispo", "dapo", "vespo")
"""Losses of GRPO that are sums over the tokens of a part, divided by those of all; of others a part weighs by its rows,
in `bnpo` by its tokens."""
LOGPROBS = ("old_per_token_logps", "ref_per_token_logps")


class OnlineBatches(KeepsLogs, OwnRollouts, Trainer):
    """Computes rows of like length together, with the positions that left-padded rows have when they are sampled."""

    args: GRPOArguments | RLOOArguments
    policy: Model
    aux_loss_enabled: bool  # of TRL's trainers, as is the next
    importance_sampling_level: str

    @property
    def is_cut(self) -> bool:
        """Whether batches are cut: not where a loss has a term that is no sum over tokens or rows."""
        args = self.args
        whole = isinstance(args, GRPOArguments) and (
            args.top_entropy_quantile < 1 or args.entropy_coef != 0 or args.use_adaptive_entropy
        )
        return args.micro_batches_by_length and not whole and not self.aux_loss_enabled

    def compute_loss(self, model, inputs: Batch, return_outputs: bool = False, num_items_in_batch=None):
        """Return the loss of a batch; all its micro-batches but the last have added their gradients already."""
        if not self.is_cut:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        parts, before, losses = self.split(inputs), logged_counts(self, "train"), []
        rows = torch.tensor([float(len(part["advantages"])) for part in parts], device=self.args.device)
        tokens = torch.stack([part["completion_mask"].sum().float() for part in parts])
        kind = getattr(self, "loss_type", None)
        shares = torch.ones_like(rows) if kind in SUMS else shares_of(tokens if kind == "bnpo" else rows)
        # of a loss that Trainer does not scale itself, `training_step` divides what is returned
        scale = 1.0 if self.compute_loss_func is not None else 1 / self.current_gradient_accumulation_steps
        for part, share in zip(parts[:-1], shares, strict=False):
            with self.accelerator.no_sync(model) if self.accelerator.num_processes > 1 else nullcontext():
                loss = super().compute_loss(model, part) * share
                self.accelerator.backward(loss * scale)
            losses.append(loss.detach())
            self.control = self.callback_handler.on_substep_end(self.args, self.state, self.control)
        loss = super().compute_loss(model, parts[-1]) * shares[-1]
        rows, tokens = (self.accelerator.reduce(counts, "sum").tolist() for counts in (rows, tokens))
        per_row = kind is None or self.importance_sampling_level == "sequence"
        others = {name: rows for name in logged_counts(self, "train") if name.startswith("clip_ratio/")}
        weigh_logged(self, "train", before, tokens, others if per_row else None)
        return loss + sum(losses) if losses else loss

    def split(self, batch: Batch) -> list[Batch]:
        """Return the micro-batches of a batch, as many in each process, without columns of padding."""
        lengths = (batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)).tolist()
        options = (max(lengths), self.args, call_tokens(self.policy))
        parts = cut_by_length(lengths, *options, together=self.accelerator.num_processes > 1)
        return [select(batch, torch.tensor(part, device=self.args.device)) for part in parts]

    def predict(self, measure, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **options):
        """Return log-probabilities (B, R), 0 on padding, entropies and router loss; without gradients in parts."""

        def positioned(attention_mask: torch.Tensor, **inputs):
            positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
            return model(attention_mask=attention_mask, position_ids=positions, **inputs)

        mask = attention_mask[:, -logits_to_keep:]
        if torch.is_grad_enabled() or not self.args.micro_batches_by_length:
            logprobs, *others = measure(
                positioned, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **options
            )
            return logprobs.where(mask > 0, 0.0), *others
        lengths, logprobs = attention_mask.sum(1).tolist(), torch.zeros(mask.shape, device=mask.device)
        for part in cut_by_length(lengths, max(lengths), self.args, call_tokens(self.policy)):
            index = torch.tensor(part, device=mask.device)
            begin, width = kept_columns(attention_mask[index, :-logits_to_keep], mask[index])
            end = input_ids.shape[1] - logits_to_keep + width
            rows = (input_ids[index, begin:end], attention_mask[index, begin:end], width)
            found, *_ = measure(positioned, *rows, **options)
            logprobs[index, :width] = found.where(mask[index, :width] > 0, 0.0).to(logprobs.dtype)
        return logprobs, None, None

    # Checkpoints

    @property
    def passes_per_batch(self) -> int:
        """Forward and backward passes for which a batch of replies lasts."""
        return cast(int, self.args.steps_per_generation) * self.args.num_iterations

    def save_replies(self, folder: str) -> None:
        """Save the replies of this process that later passes learn from, if there are any."""
        passes, batches = sampled_batch(self)
        if batches is not None and passes % self.passes_per_batch:
            tensors = {
                f"{index}.{name}": one.clone() for index, batch in enumerate(batches) for name, one in batch.items()
            }
            save_file(tensors, self.replies_file(folder))

    def load_replies(self, folder: str) -> None:
        """Load the replies that `save_replies` saved, if it did."""
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


def shares_of(counts: torch.Tensor) -> torch.Tensor:
    """Return the share of each part in a mean, (N,)."""
    return counts / counts.sum().clamp(min=1.0)


def kept_columns(prompt_mask: torch.Tensor, mask: torch.Tensor) -> tuple[int, int]:
    """Return the first column of rows that is not padding, and the columns of their longest reply, at least 1."""
    return prompt_mask.shape[1] - int(prompt_mask.sum(1).max()), max(int(mask.sum(1).max()), 1)


def select(batch: Batch, index: torch.Tensor) -> Batch:
    """Return rows of a batch of TRL, without the columns that are padding in all of them."""
    begin, width = kept_columns(batch["prompt_mask"][index], batch["completion_mask"][index])
    part = {name: values[index] if values.ndim else values for name, values in batch.items()}
    for name in ("prompt_ids", "prompt_mask"):
        part[name] = part[name][:, begin:]
    for name in ("completion_ids", "completion_mask", *LOGPROBS):
        if name in part:
            part[name] = part[name][:, :width]
    return part
