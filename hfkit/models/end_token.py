"""Finds a token that ends responses and whose row in the output head was never trained.

The rows of untrained tokens in an output head all get the same gradient, so training makes them equal (Land and
Bartolo 2024, arXiv 2405.05417). n tokens with equal rows have equal logits, so none of them gets a probability above
1/n, whatever an adapter of other layers learns. A row that is almost zero has almost the same logit after every text.
"""

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfkit.core.console import warn
from hfkit.core.unwrap import without_adapter
from hfkit.data.turn_end import turn_end
from hfkit.models.zero import whole
from hfkit.records.source import Source

EQUAL = 0.01
"""Distance between two rows, as a share of the median norm of all, up to which they count as equal, and norm of a row
up to which it counts as zero; rounding to 16 bits moves equal rows apart by 0.002 to 0.004."""
CHUNK = 8192  # rows


def warn_of_end_token(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, config) -> None:
    """Warn if the frozen output head of a stage's model cannot tell the token that ends responses from others."""
    base = without_adapter(model)
    head = base.get_output_embeddings()
    if head is None or any(parameter.requires_grad for parameter in head.parameters()):
        return
    token = turn_end(tokenizer).ids[-1]
    with whole(head.weight) as weight:
        if weight.is_meta or not weight.is_floating_point() or token >= len(weight):
            return
        equal, norm = compare_rows(weight, getattr(head, "bias", None), token)
    if not equal and norm > EQUAL:
        return
    name = next(name.rpartition(".")[2] for name, module in base.named_modules() if module is head)
    start = Source.of(config.model_name_or_path, config.model_revision)
    where = f" when you train {config.model_name_or_path}" if start.adapter else ""
    others = f"it from {equal:,} other token{'s' if equal > 1 else ''} (equal rows, as of tokens without training)"
    fault = others if equal else "when (its row is almost zero, as of a token without training)"
    warn(
        f"responses may never end: {tokenizer.convert_ids_to_tokens(token)!r} ends them, but {name} cannot tell "
        f"{fault}, and the adapter does not train {name}. Set modules_to_save: [{name}]{where}, or choose a "
        "chat_template that ends turns with a trained token, or train all weights (use_peft: false)"
    )


@torch.no_grad()
def compare_rows(weight: torch.Tensor, bias: torch.Tensor | None, token: int) -> tuple[int, float]:
    """Return how many other rows of an output head, (V, H) with a bias (V,), equal that of a token, and its norm.

    The norm is a share of the median norm of all rows.
    """
    rows, distances, norms = weight.detach(), [], []
    own = rows[token].float()
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK].float()
        distances.append((chunk - own).norm(dim=1))
        norms.append(chunk.norm(dim=1))
    distance, median = torch.cat(distances), torch.cat(norms).median()
    if bias is not None:
        distance = torch.maximum(distance, (bias.detach() - bias.detach()[token]).abs().float())
    return int((distance <= EQUAL * median).sum()) - 1, float(own.norm() / median)
