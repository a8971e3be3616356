"""Formulas for the bytes of weights, gradients, optimizer states, activations and caches.

`loss_formulas` has those of logits and losses.

Activations are counted as in Korthikanti et al. 2022 (arXiv 2205.05198, section 4), tensor by tensor, as autograd keeps
them for Transformers' Llama: RMSNorm, rotary embeddings, grouped keys and values, a gated MLP, fp32 or bf16 autocast,
fused attention (`sdpa`), LoRA (arXiv 2106.09685). `tests/training/test_memory.py` compares them with tensors.

Symbols: B rows, T tokens of a row, h hidden width, q and k widths of queries and keys, f width inside the MLP, a heads,
V vocabulary, L layers, r LoRA rank. Everything is in bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from transformers import TrainingArguments

from hfkit.training.memory.shapes import Decoder, Weight

FP32, BF16 = 4, 2
BLOCK_4BIT, BLOCK_OF_SCALES, BLOCK_8BIT_STATE = 64, 256, 256
SMALLEST_8BIT_STATE = 4096
# States per trained element by `optim`; optimizers that are not listed count as AdamW, with 2.
OPTIMIZER_STATES = {"sgd": 0, "adagrad": 1, "rmsprop": 1, "lion": 1, "ademamix": 3, "grokadamw": 3}
OPTIMIZER_STATES |= {"schedule_free_sgd": 1}
WITH_MOMENTUM = ("sgd", "rmsprop")  # with `optim_args: momentum=0.9` they keep one state more


@dataclass(frozen=True)
class Pass:
    """A forward pass that keeps the activations for its backward.

    Attributes:
        rows, length: B and T.
        stream: bytes of an element between the layers, in the dtype of the weights that are not quantized.
        half: whether 16-bit autocast is on.
        full: whether the base's own weights are trained.
        adapter: bytes of an element of the adapters; 0 without adapters.
        dropout: whether the adapters' inputs have dropout.
        padded: whether the rows differ in length, so that attention gets a mask.
        eager: whether attention is written in torch (`attn_implementation: eager`).
        checkpointing: whether activations are recomputed.
        quantized: whether the base's linear weights are quantized.
        on_gpu: whether the pass runs on a GPU.
    """

    rows: int
    length: int
    stream: int
    half: bool
    full: bool
    adapter: int
    dropout: bool
    padded: bool
    eager: bool
    checkpointing: bool
    quantized: bool
    on_gpu: bool

    @property
    def tokens(self) -> int:
        """B times T."""
        return self.rows * self.length

    @property
    def inner(self) -> int:
        """Bytes of an element inside a layer, in the output of linear maps."""
        return BF16 if self.half else self.stream

    @property
    def mlp(self) -> int:
        """The same inside the MLP: bitsandbytes' linear maps write the dtype that they read, even under autocast."""
        return self.stream if self.quantized else self.inner


def weight_bytes(weights: Iterable[Weight], nested: bool = True) -> int:
    """Return the bytes of parameters in memory; quantized ones as bitsandbytes holds them.

    4 bits (QLoRA, arXiv 2305.14314, sections 2 and 3): half a byte an element and a scale a block of 64, in fp32, or
    (`nested`) in 8 bits with an fp32 scale a block of 256 scales; and the tables of the data types.
    8 bits (LLM.int8, arXiv 2208.07339): a byte an element and an fp32 scale an output row.
    """
    total = 0
    for weight in weights:
        count = weight.count
        if weight.bits == 4:
            scales = ceil(count / BLOCK_4BIT)
            total += ceil(count / 2) + 16 * FP32
            total += scales + ceil(scales / BLOCK_OF_SCALES) * FP32 + 257 * FP32 if nested else scales * FP32
        elif weight.bits == 8:
            total += count + weight.shape[0] * FP32
        else:
            total += count * weight.itemsize
    return total


def gradient_bytes(weights: Iterable[Weight]) -> int:
    """Return the bytes of a gradient for each trained parameter, in its dtype."""
    return sum(weight.count * weight.itemsize for weight in weights if weight.trained)


def state_count(optim: str, optim_args: str | None) -> int:
    """Return how many states an optimizer keeps per trained element, by its name and options in `TrainingArguments`."""
    name = optim.removeprefix("paged_")
    states = next((count for start, count in OPTIMIZER_STATES.items() if name.startswith(start)), 2)
    options = dict(option.split("=", 1) for option in (optim_args or "").replace(" ", "").split(",") if "=" in option)
    return states + (name in WITH_MOMENTUM and float(options.get("momentum", 0)) > 0)


def optimizer_bytes(weights: Iterable[Weight], arguments: TrainingArguments) -> int:
    """Return the bytes of the states of the optimizer that a trainer's arguments name.

    AdamW (arXiv 1711.05101): two of the parameter's dtype, and a step counter. bitsandbytes: fp32, or one byte per
    state with an fp32 scale a block of 256 (arXiv 2110.02861; fp32 for embeddings, and in tensors of fewer than 4096
    elements). Adafactor (arXiv 1804.04235): a row and a column of each matrix. "paged" changes where states are stored,
    not their size.
    """
    name, states = arguments.optim.removeprefix("paged_"), state_count(arguments.optim, arguments.optim_args)
    total = 0
    for weight in weights:
        if not weight.trained:
            continue
        count = weight.count
        if name == "adafactor":
            total += FP32 * (sum(weight.shape) if len(weight.shape) > 1 else count)
        elif "8bit" in name and count >= SMALLEST_8BIT_STATE and not weight.embedding:
            total += states * (count + ceil(count / BLOCK_8BIT_STATE) * FP32)
        elif "bit" in name or "bnb" in name:
            total += states * count * FP32
        else:
            total += states * count * weight.itemsize + (FP32 if states else 0)
    return total


def step_bytes(weights: Iterable[Weight], optim: str, on_gpu: bool) -> int:
    """Return the bytes that an optimizer step needs in addition to its states: with torch's AdamW the denominators of
    all tensors on a GPU (`foreach`), of one at a time (twice) on a CPU; with fused or bitsandbytes' kernels none."""
    sizes = [weight.count * weight.itemsize for weight in weights if weight.trained]
    if "bit" in optim or "bnb" in optim or "fused" in optim or not sizes:
        return 0
    return sum(sizes) if on_gpu else 2 * max(sizes)


def layer_bytes(decoder: Decoder, run: Pass) -> int:
    """Return the bytes that one layer keeps for its backward, without bf16 copies of its weights.

    per token:
        norms        2 inputs of h in fp32 (RMSNorm squares in fp32) and 2 numbers; of a trained RMSNorm, also 2h before
                     its weight
        attention    q + 2k after the rotation, the output q, the log-sum-exp of a heads in fp32;
                     with a mask and grouped keys, these are repeated to q each
        MLP          gate, its activation, up: 3f (without a gate f; GPT-2's GELU, step by step, 3f more)
        inputs       of the trained linear maps: h for queries, keys and values together, q (the output above), h and f;
                     autocast makes bf16 copies of fp32 inputs, one for each map
        LoRA         the inputs of the adapted maps: those same tensors, or copies where the dtype differs, one for each
                     map; r for each; with dropout, the dropped input and its mask (bytes on a GPU) instead;
                     DoRA (arXiv 2402.09353) scales the output of the map and that of the adapter, and keeps both
    per row:         a mask of T^2, if rows are padded; written out (eager, or dropped on a CPU), a T^2 of weights
    """
    d, inner, stream = decoder, run.inner, run.stream
    norms = 2 * (d.hidden + 1) * FP32 + (2 * d.hidden * stream if run.full and d.rms else 0)
    grouped = d.key < d.query and not run.eager and not run.padded
    attention = (2 * d.query + 2 * (d.key if grouped else d.query)) * inner
    mlp = (3 if d.gated else 4 if d.unfused_gelu else 1) * d.mlp * run.mlp
    shared = (2 * d.hidden + d.mlp) * inner
    widths = sum(width for width, _, _ in d.adapted)
    ranks = sum(rank for _, _, rank in d.adapted)
    inputs = 0
    if run.full:
        inputs = ((5 if d.gated else 4) * d.hidden + d.mlp) * BF16 if run.half and stream == FP32 else shared
    elif run.adapter:
        low = BF16 if run.half else run.adapter
        if run.dropout:
            inputs = widths * (low + (1 if run.on_gpu else run.adapter))
        else:
            inputs = shared if low == run.adapter == stream == inner else widths * low
        inputs += ranks * low
        inputs += 2 * sum(out for _, out, _ in d.adapted) * inner if d.dora else 0
    written_out = run.eager or (d.attention_dropout and run.full and not run.on_gpu)
    if written_out:
        square = d.heads * (FP32 + (BF16 if inner == BF16 else 0))
        square += 2 * d.heads * inner if d.attention_dropout and run.full else 0
    else:
        attention += d.heads * FP32
        square = inner if run.padded else 0
    return run.tokens * (norms + attention + mlp + inputs + run.length * square)


def copied_weights(decoder: Decoder, run: Pass) -> int:
    """Return the bytes of autocast's bf16 copies of a layer's fp32 linear weights, which the backward reads."""
    if not run.half:
        return 0
    base = 0 if run.stream == BF16 or run.quantized else decoder.linear
    low_rank = sum((width + out) * rank for width, out, rank in decoder.adapted) if run.adapter == FP32 else 0
    return BF16 * (base + low_rank)


def edge_bytes(decoder: Decoder, run: Pass) -> int:
    """Return the bytes outside the layers: ids, rotations, the last norm, the head's input and its bf16 copy."""
    per_token = 8 + (decoder.hidden + 1) * FP32
    if run.full:
        per_token += decoder.hidden * (run.stream if decoder.rms else 0) + decoder.hidden * run.inner
    rotations = 2 * run.length * (decoder.query // max(1, decoder.heads)) * run.stream
    return run.tokens * per_token + rotations + copied_head(decoder, run)


def kept_bytes(decoder: Decoder, run: Pass) -> int:
    """Return the bytes of activations kept until the backward: all of them, or with checkpointing each layer's input.

    Checkpointing (arXiv 1604.06174; 2205.05198, section 4.2.3): h for each token and layer.
    """
    if not run.checkpointing:
        return decoder.layers * (layer_bytes(decoder, run) + copied_weights(decoder, run)) + edge_bytes(decoder, run)
    inputs = run.tokens * decoder.hidden * run.stream
    return decoder.layers * inputs + cached_bytes(decoder, run) + edge_bytes(decoder, run)


def cached_bytes(decoder: Decoder, run: Pass) -> int:
    """Return the bytes of trained weights' bf16 copies in autocast's cache, until a forward or a sampling ends."""
    copies = copied_weights(decoder, run)
    copies_base = run.half and run.stream == FP32 and not run.quantized
    frozen = BF16 * decoder.linear if copies_base and not run.full else 0
    return decoder.layers * (copies - frozen)


def copied_head(decoder: Decoder, run: Pass) -> int:
    """Return the bytes of the output head's bf16 copy; 0 where the head is in 16 bits already."""
    return decoder.hidden * decoder.vocab * BF16 if run.half and run.stream == FP32 else 0


def backward_bytes(decoder: Decoder, run: Pass, largest: int) -> int:
    """Return the bytes of one layer's backward in addition to the kept activations: two gradients inside the MLP and
    two of the stream, `largest` bytes of an unpacked weight, and with checkpointing the layer's recomputed
    activations."""
    gradients = run.tokens * (2 * decoder.mlp * run.mlp + 2 * decoder.hidden * run.stream)
    if not run.checkpointing:
        return gradients + largest
    kept = run.tokens * decoder.hidden * run.stream if run.stream == FP32 else 0
    return gradients + largest + layer_bytes(decoder, run) - kept + copied_weights(decoder, run)


def inference_bytes(decoder: Decoder, run: Pass) -> int:
    """Return the bytes of a layer without a backward: the stream, its norm, and three tensors inside the MLP."""
    return run.tokens * (3 * decoder.hidden * run.stream + 3 * decoder.mlp * run.inner)


def cache_bytes(decoder: Decoder, run: Pass) -> int:
    """Return the bytes of the KV cache of every layer; rotated keys are in the stream's dtype again."""
    return run.tokens * decoder.layers * decoder.key * (run.stream + run.inner)


def merged_bytes(decoder: Decoder, run: Pass) -> int:
    """Return the bytes of merged copies of the adapted matrices, in fp32 or bf16, and of the fp32 update of one matrix;
    if the result is rounded to bf16, also of the random bits for the rounding. With a quantized base all matrices of a
    layer are copied."""
    matrices = [width * out for width, out, _ in decoder.adapted]
    copied = decoder.linear if run.quantized else sum(matrices)
    return decoder.layers * copied * run.inner + (2 if run.inner == BF16 else 1) * max(matrices, default=0) * FP32


def sampling_bytes(decoder: Decoder, prompts: Pass, replies: Pass) -> int:
    """Return the bytes of generation, the larger of its first step (a layer's activations, the KV cache of the prompts)
    and its last (the whole KV cache, one layer of it twice to append a token, logits and probabilities)."""
    cache = cache_bytes(decoder, replies)
    sampled = cache + cache // decoder.layers + 4 * replies.rows * decoder.vocab * FP32 + copied_head(decoder, replies)
    return max(cache_bytes(decoder, prompts) + inference_bytes(decoder, prompts), sampled)
