"""The processes of a launch: what its engine shards among them, and what a process holds in addition.

DDP (arXiv 2006.15704, section 3.2) keeps everything in every process, and the gradients a second time, in buckets.
FSDP2 (arXiv 2304.11277) and ZeRO-3 (arXiv 1910.02054, section 5) shard weights, gradients and optimizer states, and
gather weights to compute with them; ZeRO-2 keeps all weights in every process.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil

from hfkit.core.launch import engine, node_count, replica_count, world_size
from hfkit.training.memory.formulas import BF16, FP32, weight_bytes
from hfkit.training.memory.shapes import Role, Weight

LAUNCH_ENGINES = ("ddp", "zero2", "fsdp2", "zero3")
"""Engines for several processes, the one that shards least first."""
ZERO_BUCKET = 500_000_000
"""Elements of DeepSpeed's `reduce_bucket_size`, which it allocates whole."""
LIVE = 1_000_000_000
"""Elements of weights that ZeRO-3 keeps gathered: `stage3_max_live_parameters`."""
PREFETCH = 50_000_000
"""Elements of weights that are prefetched in addition: `stage3_prefetch_bucket_size`."""


@dataclass(frozen=True)
class Launch:
    """Processes that train together.

    Attributes:
        processes: of all machines.
        engine: of `LAUNCH_ENGINES`; ignored for one process.
        nodes: machines.
    """

    processes: int = 1
    engine: str = "ddp"
    nodes: int = 1

    @property
    def is_zero(self) -> bool:
        """Whether the engine is DeepSpeed."""
        return self.processes > 1 and self.engine in ("zero2", "zero3")

    @property
    def shares_weights(self) -> bool:
        """Whether each process holds a part of the weights."""
        return self.processes > 1 and self.engine in ("fsdp2", "zero3")

    @property
    def shares_states(self) -> bool:
        """Whether each process holds a part of the gradients and optimizer states."""
        return self.processes > 1 and self.engine != "ddp"

    def converted(self, weights: Iterable[Weight], half: bool) -> tuple[Weight, ...]:
        """Return a model's tensors as the engine computes with them: DeepSpeed converts them to 16 bits for bf16."""
        if not (self.is_zero and half):
            return tuple(weights)
        return tuple(weight if weight.bits else replace(weight, itemsize=BF16) for weight in weights)

    def held(self, weights: Iterable[Weight]) -> tuple[Weight, ...]:
        """Return the part of a model's tensors that one process holds."""
        return self.shard(weights) if self.shares_weights else tuple(weights)

    def stepped(self, weights: Iterable[Weight]) -> tuple[Weight, ...]:
        """Return the part of the trained tensors of which one process holds gradients and optimizer states."""
        trained = tuple(weight for weight in weights if weight.trained)
        return self.shard(trained) if self.shares_states else trained

    def copies(self, weights: Iterable[Weight]) -> int:
        """Return the bytes of DeepSpeed's fp32 copies of trained weights, which its optimizer steps on."""
        return FP32 * sum(weight.count for weight in self.stepped(weights)) if self.is_zero else 0

    def shard(self, weights: Iterable[Weight]) -> tuple[Weight, ...]:
        """Return the part of tensors that one process holds, the largest that any does.

        FSDP2 splits the first dimension, so the last processes may hold nothing of a small tensor; DeepSpeed splits the
        elements. accelerate leaves quantized weights whole under FSDP2.
        """
        return tuple(weight if self.leaves_whole(weight) else self.shard_of(weight) for weight in weights)

    def leaves_whole(self, weight: Weight) -> bool:
        """Return whether every process holds all of a tensor."""
        return self.engine == "fsdp2" and weight.bits is not None

    def shard_of(self, weight: Weight) -> Weight:
        """Return one process's part of a tensor."""
        if self.engine == "fsdp2":
            first, *others = weight.shape or (1,)
            return replace(weight, shape=(ceil(first / self.processes), *others))
        return replace(weight, shape=(ceil(weight.count / self.processes),))

    def step_groups(self, weights: Iterable[Weight]) -> tuple[Weight, ...]:
        """Return the tensors that the optimizer steps on: DeepSpeed's is one, with all elements of a process."""
        stepped = self.stepped(weights)
        if not self.is_zero:
            return stepped
        return (Weight((sum(weight.count for weight in stepped),), FP32, trained=True),)

    def bucket_bytes(self, trained: Iterable[Weight], half: bool, on_gpu: bool) -> int:
        """Return the bytes of the buckets for gradients that exist for the whole run.

        DDP's are as large as the gradients. ZeRO-3 keeps its bucket and the shards of the gradients.
        """
        if self.processes == 1 or self.engine in ("fsdp2", "zero2"):
            return 0
        if self.engine == "ddp":
            return size_of(trained)
        return self.zero_bucket(trained, half, on_gpu) + size_of(self.stepped(self.converted(trained, half)))

    def zero_bucket(self, trained: Iterable[Weight], half: bool, on_gpu: bool) -> int:
        """Return the bytes of ZeRO's bucket, which has a fixed size; on a CPU, untouched pages take no memory."""
        count = ZERO_BUCKET if on_gpu else min(ZERO_BUCKET, sum(weight.count for weight in trained if weight.trained))
        return count * (BF16 if half else FP32)

    def gathered(self, role: Role, half: bool, on_gpu: bool, together: bool = False) -> "GatheredWeights":
        """Return the weights that a process gathers to train a model; for the arguments see `gathered_by_layers`."""
        if self.processes == 1 or self.engine == "ddp":
            return GatheredWeights()
        if self.engine == "fsdp2":
            return gathered_by_layers(role, half, together)
        if self.engine == "zero2":
            return GatheredWeights(bucket=self.zero_bucket(role.weights, half, on_gpu))
        converted = self.converted(role.weights, half)
        count = max(1, sum(weight.count for weight in converted))
        return GatheredWeights(head=int(weight_bytes(converted) * (min(1, LIVE / count) + min(1, PREFETCH / count))))


ALONE = Launch()
"""One process."""


def this_launch(settings: dict) -> Launch:
    """Return the launch of this process; with hybrid sharding that of the group that shards one copy of the model.

    Args:
        settings: `deepspeed`, as in `TrainingArguments`.
    """
    kind = engine(settings) or ALONE.engine
    return Launch(world_size() // replica_count(), kind if kind in LAUNCH_ENGINES else ALONE.engine, node_count())


@dataclass(frozen=True)
class GatheredWeights:
    """Bytes of the weights that are gathered at once, and of their gradients before these are sharded.

    Attributes:
        layer, head, embedding: of the largest decoder layer, of the modules after the layers, and of the embeddings.
        root: of the weights gathered for a whole pass: embeddings and a head that is tied to them.
        layer_gradients, head_gradients, embedding_gradients: of their trained weights, the last also of the root.
        accumulated: of all gradients, which FSDP2 accumulates whole until the last micro-batch of a step.
        bucket: of gradients that wait to be sent.
    """

    layer: int = 0
    head: int = 0
    embedding: int = 0
    root: int = 0
    layer_gradients: int = 0
    head_gradients: int = 0
    embedding_gradients: int = 0
    accumulated: int = 0
    bucket: int = 0

    @property
    def forward(self) -> int:
        """Bytes in a forward pass: the layer that computes and the next one, or the head."""
        return self.root + max(2 * self.layer, self.head)

    def backward(self, kept: int, shares: int, layer: int) -> int:
        """Return the most bytes of a backward pass: at the head, in the layers, or at the embeddings.

        Gradients of a layer exist twice while they are sent, next to the weights of that layer and of the next one.

        Args:
            kept: activations, and gradients that accumulate.
            shares: shards of the gradients, at the end.
            layer: memory of the backward of a layer.
        """
        return (
            self.bucket
            + self.root
            + max(
                kept + self.head + 2 * self.head_gradients,
                max(kept, shares) + layer + 2 * self.layer + 2 * self.layer_gradients,
                shares + self.embedding + 2 * self.embedding_gradients,
            )
        )


def gathered_by_layers(role: Role, half: bool, together: bool) -> GatheredWeights:
    """Return the weights of a model that FSDP2 gathers: a layer, the embeddings, and the head with the last norm.

    Args:
        half: whether weights are gathered in 16 bits. Quantized weights are not gathered.
        together: whether all weights outside of the layers are gathered together; a tied head always is.
    """
    whole = as_gathered(role.weights, half)
    layers = ([weight for weight in whole if weight.layer == index] for index in range(role.decoder.layers))
    layer = max(layers, key=size_of, default=[])
    outside = [weight for weight in whole if weight.layer is None]
    head = [weight for weight in outside if not weight.embedding]
    embedding = [weight for weight in outside if weight.embedding]
    is_tied = role.decoder.vocab > 1 and sum(weight.count for weight in head) < role.decoder.vocab * role.decoder.hidden
    found = GatheredWeights(layer=size_of(layer), layer_gradients=trained_size(layer), accumulated=trained_size(whole))
    if together or is_tied:
        return replace(found, root=size_of(outside), embedding_gradients=trained_size(outside))
    return replace(
        found,
        head=size_of(head),
        embedding=size_of(embedding),
        head_gradients=trained_size(head),
        embedding_gradients=trained_size(embedding),
    )


def as_gathered(weights: Iterable[Weight], half: bool) -> list[Weight]:
    """Return the tensors that FSDP2 gathers, in the dtype of gathering."""
    return [replace(one, itemsize=BF16 if half else one.itemsize) for one in weights if one.bits is None]


def gathered_size(weights: Iterable[Weight], half: bool) -> int:
    """Return the bytes of a model when FSDP2 has gathered all of it."""
    return size_of(as_gathered(weights, half))


def size_of(weights: Iterable[Weight]) -> int:
    """Return the bytes of tensors that are not quantized."""
    return sum(weight.count * weight.itemsize for weight in weights)


def trained_size(weights: Iterable[Weight]) -> int:
    """Return the bytes of those tensors that are trained."""
    return size_of(weight for weight in weights if weight.trained)
