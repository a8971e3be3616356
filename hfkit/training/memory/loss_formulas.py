"""Formulas for the bytes of logits and losses, in the symbols of `formulas`."""

from hfkit.models.token_predictions import chunk_logits
from hfkit.training.memory.formulas import BF16, FP32, Pass, inference_bytes
from hfkit.training.memory.shapes import Decoder


def loss_bytes(decoder: Decoder, tokens: int) -> int:
    """Return the bytes of cross-entropy: log-probabilities over V in fp32, their gradient and that of the logits."""
    return 3 * tokens * decoder.vocab * FP32


def chunk_tokens(decoder: Decoder, run: Pass) -> int:
    """Return the tokens whose logits are in memory at once (`token_predictions.chunk_size`)."""
    return max(1, chunk_logits("cuda" if run.on_gpu else "cpu", trains_head=run.full) // decoder.vocab)


def chunked_loss_bytes(decoder: Decoder, run: Pass) -> int:
    """Return the bytes of the cross-entropy of a chunk (`token_predictions.chunk_logits`): as of `loss_bytes`, and the
    logits in 16 bits where the head computes in them."""
    tokens = min(run.tokens, chunk_tokens(decoder, run))
    return loss_bytes(decoder, tokens) + (tokens * decoder.vocab * BF16 if run.inner == BF16 else 0)


def smoothed_loss_bytes(decoder: Decoder, run: Pass) -> int:
    """Return the bytes of a loss of all logits at once, smoothed or not: `loss_bytes`, a copy of the shifted logits,
    and the logits in 16 bits where the head computes in them."""
    return loss_bytes(decoder, run.tokens) + run.tokens * decoder.vocab * (FP32 + (BF16 if run.inner == BF16 else 0))


def preference_loss_bytes(decoder: Decoder, run: Pass) -> int:
    """Return the bytes of TRL's loss of pairs on the logits of policy and reference: both in fp32, with the gradients
    of the policy's log-normalizers and of its logits."""
    return 4 * run.tokens * decoder.vocab * FP32


def reference_bytes(decoder: Decoder, run: Pass) -> int:
    """Return the bytes of log-probabilities without gradients: logits in fp32, also in 16 bits where the head computes
    in them, and the exponentials of a row; or a layer, with a fourth tensor inside the MLP: LoRA scaled."""
    layer = inference_bytes(decoder, run) + (run.tokens * decoder.mlp * run.inner if run.adapter else 0)
    logits = run.tokens * (FP32 + (BF16 if run.inner == BF16 else 0)) + run.length * FP32
    return max(layer, logits * decoder.vocab)


def fused_head_bytes(decoder: Decoder, run: Pass, tokens: int, tile: tuple[int, int]) -> int:
    """Return the bytes of the log-probabilities that TRL computes from the weights of the output head.

    The buffer of a tile of logits has all of its columns, also for a smaller vocabulary, and the dtype in which the
    head computes. Gradients of the head's input and of a trained head are in fp32. Without Triton, the backward has
    7 tensors of a tile in fp32 and one of booleans at once.

    Args:
        tokens: whose logits are computed.
        tile: most tokens and columns of a tile (`compat_trl.fused_head_tile`).
    """
    rows, columns = min(tokens, tile[0]), tile[1]
    backward = 0 if run.on_gpu else rows * min(columns, decoder.vocab) * (7 * FP32 + 1)
    gradients = (tokens + (decoder.vocab if run.full else 0)) * decoder.hidden * FP32
    return rows * columns * run.inner + backward + gradients


def policy_loss_bytes(decoder: Decoder, run: Pass, replies: int) -> int:
    """Return the bytes of PPO's loss on a chunk of the tokens of the responses: logits over the temperature and two
    gradients in fp32, under autocast also the head's bf16 output."""
    return min(replies, chunk_tokens(decoder, run)) * decoder.vocab * (3 * FP32 + (BF16 if run.half else 0))


def scoring_bytes(decoder: Decoder, run: Pass, replies: int) -> int:
    """Return the bytes of scoring log-probabilities: a layer, then a chunk of logits with and without temperature."""
    replies = min(replies, chunk_tokens(decoder, run))
    return max(inference_bytes(decoder, run), replies * decoder.vocab * (FP32 + max(run.inner, FP32)))
