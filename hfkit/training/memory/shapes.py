"""The shapes of a stage's models, built on torch's meta device: no weights are read or allocated."""

import json
from dataclasses import dataclass, replace
from functools import cache

import torch
from peft import LoraConfig, TaskType
from peft.tuners.lora import LoraLayer
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from hfkit.core.device import has_bf16
from hfkit.core.errors import ConfigError, Problem, reason
from hfkit.models.adapter_shape import HEADS, fit_to_model, get_on_meta, lora_config, on_meta
from hfkit.models.adapters import ADAPTED
from hfkit.models.direct_weights import direct_weights
from hfkit.models.model_config import attention_widths, largest_setting
from hfkit.models.multimodal import freeze_parts_without_text
from hfkit.models.precision import checkpoint_dtype, computes_in_bf16, train_in_float32
from hfkit.models.score_head import store_head_in_float32
from hfkit.records.source import Source


@dataclass(frozen=True, eq=False)
class Origin:
    """A model known by its config alone: an existing one, or one that an earlier stage will make.

    Attributes:
        tokenizer: path and revision of its tokenizer.
    """

    source: Source
    config: PretrainedConfig
    tokenizer: tuple[str, str]


@dataclass(frozen=True)
class Weight:
    """One parameter tensor, as it will be held in memory."""

    shape: tuple[int, ...]
    itemsize: int
    trained: bool
    adapter: bool = False
    embedding: bool = False
    linear: bool = False  # whether bitsandbytes can quantize it
    bits: int | None = None  # 4 or 8 if it does
    layer: int | None = None  # index of the decoder layer that it belongs to

    @property
    def count(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Decoder:
    """The widths of a decoder transformer, which determine its activations; all layers count as equal.

    Attributes:
        hidden, layers, heads: as in the model's config.
        vocab: width of the head: the vocabulary, or 1 for a classifier.
        query, key: width of the queries, and of the keys (and of the values).
        mlp: width inside the MLP; in a mixture of experts, that of the experts that a token sees.
        gated: whether the MLP has a gate (SwiGLU, GeGLU).
        rms: whether the norm is an RMSNorm in plain torch, which keeps one tensor more than the fused LayerNorm.
        unfused_gelu: whether the activation is GPT-2's tanh GELU in plain torch, which keeps each of its steps.
        attention_dropout: whether attention weights are dropped in training.
        linear: number of parameters in a layer's linear weights.
        dora: whether the adapters train the norms of the matrices separately, which keeps two outputs of each.
        adapted: widths (in, out, rank) of those linear maps of a layer that have an adapter.
    """

    hidden: int
    vocab: int
    layers: int
    heads: int
    query: int
    key: int
    mlp: int
    gated: bool
    rms: bool
    unfused_gelu: bool
    attention_dropout: bool
    linear: int
    dora: bool
    adapted: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Shape:
    """A model's parameter tensors and widths."""

    weights: tuple[Weight, ...]
    decoder: Decoder


@dataclass(frozen=True)
class Role:
    """A model of a stage.

    Attributes:
        weights: all weights that it computes with.
        held: the part of `weights` that it does not share with a role before it.
    """

    name: str
    weights: tuple[Weight, ...]
    held: tuple[Weight, ...]
    decoder: Decoder

    @property
    def trained(self) -> tuple[Weight, ...]:
        return tuple(weight for weight in self.held if weight.trained)


def roles_of(stage) -> list[Role]:
    """Return the models that a stage (a `PlannedStage`) holds; each shares weights only with those before it."""
    if stage.spec.loop == "ppo":
        return ppo_roles(stage.config, stage.start, stage.reward, stage.shares_vocabulary)
    if stage.spec.samples_replies:
        return scored_roles(stage.config, stage.start, stage.reward)
    model = shape_of(stage.start, stage.task, stage.config, stage.start.source if stage.config.use_peft else None)
    roles = [Role("model", model.weights, model.weights, model.decoder)]
    return [*roles, reference_of(roles[0], stage.config)] if stage.spec.holds_reference else roles


def reference_of(role: Role, config) -> Role:
    """Return the frozen copy of the starting model; with LoRA it shares the base."""
    copy = untrained(role.weights)
    return Role("reference", copy, adapter_part(copy) if config.use_peft else copy, role.decoder)


def scored_roles(config, start: Origin, reward: Origin | None) -> list[Role]:
    """Return policy, reference and reward model, as `hfkit.rlhf.roles.load_scored_policy` loads them.

    With LoRA they are adapters on one base, which is held once; otherwise each is a separate model. If only functions
    score, `reward` is None.
    """
    policy = shape_of(start, TaskType.CAUSAL_LM, config, start.source if config.use_peft else None)
    roles = [Role("policy", policy.weights, policy.weights, policy.decoder)]
    roles.append(reference_of(roles[0], config))
    if reward is None:
        return roles
    has_adapter = reward.source.adapter is not None
    scorer = shape_of(reward, TaskType.SEQ_CLS, config, reward.source if has_adapter else None)
    copy = untrained(scorer.weights)
    shares_base = has_adapter and config.use_peft and reward.source.base == start.source.base
    return [*roles, Role("reward", copy, adapter_part(copy) if shares_base else copy, scorer.decoder)]


def ppo_roles(config, start: Origin, reward: Origin | None, shares_vocabulary: bool) -> list[Role]:
    """Return policy, reference, reward and value model, as `hfkit.rlhf.roles.load_roles` loads them.

    The value model starts from the reward model if that has the policy's vocabulary, else from the policy's model.
    """
    roles, shares_base = scored_roles(config, start, reward), config.use_peft
    adapter = start.source if config.use_peft else None
    if reward is not None:
        shares_base = roles[-1].held != roles[-1].weights
        if shares_vocabulary:  # the value model shares the reward model's base; a full reward model gets a new adapter
            start, shares_base = reward, reward.source.adapter is not None or config.use_peft
            adapter = start.source if shares_base else None
    value = shape_of(start, TaskType.SEQ_CLS, config, adapter)
    held = adapter_part(value.weights) if shares_base else value.weights
    return [*roles, Role("value", value.weights, held, value.decoder)]


def untrained(weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
    """Return the same tensors, frozen."""
    return tuple(replace(weight, trained=False) for weight in weights)


def adapter_part(weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
    """Return the tensors that belong to an adapter."""
    return tuple(weight for weight in weights if weight.adapter)


def quantized_bits(config) -> int | None:
    """Return the bits of a quantized base, or None if it is not quantized."""
    return 4 if config.load_in_4bit else 8 if config.load_in_8bit else None


def shape_of(origin: Origin, task: TaskType, config, adapter: Source | None) -> Shape:
    """Return the shape of a model trained in full or with a LoRA adapter (of the shape of `adapter`, if given)."""
    lora = None
    if adapter is not None:
        made = lora_config(config, adapter, task).to_dict()
        lora = json.dumps(made, sort_keys=True, default=sorted)  # its sets
    dtype = "float32" if getattr(config, "model_config", None) else config.dtype  # a new model is created in fp32
    if dtype == "auto":
        dtype = checkpoint_dtype(origin.config)
    kind, given = type(origin.config), json.dumps(origin.config.to_dict())
    try:
        return build_shape(kind, given, task, dtype, quantized_bits(config), lora, computes_in_bf16(config, has_bf16()))
    except Exception as error:  # a config may hold any values
        key = "model_name_or_path" if lora is None else "lora_target_modules"
        raise ConfigError([Problem(key, origin.source.path, f"cannot be built: {reason(error)}")]) from error


@cache
def build_shape(
    kind: type[PretrainedConfig],
    given: str,
    task: TaskType,
    dtype: str,
    bits: int | None,
    lora: str | None,
    autocast: bool,
) -> Shape:
    """Build the model, and its adapter, on the meta device.

    Args:
        kind, given: the class of the model's config, and the config as JSON.
        bits: of a quantized base, whose other parts (embedding, norms, output head) stay in `dtype`.
        lora: the adapter's configuration as JSON.
        autocast: whether the model computes under autocast, and so is trained in float32 in any case.

    Raises:
        ValueError: the architecture is unknown, or `lora_target_modules` matches nothing in it.
    """
    if bits:  # the same tensors
        bare = build_shape(kind, given, task, dtype, None, lora, autocast)
        return replace(bare, weights=tuple(replace(w, bits=bits if w.linear else None) for w in bare.weights))
    model = on_meta(kind.from_dict(json.loads(given)), HEADS[task], getattr(torch, dtype))
    linear = linear_weights(model)
    if lora is not None:
        store_head_in_float32(model)
        model = get_on_meta(model, fit_to_model(LoraConfig(**json.loads(lora)), model))
        model = train_in_float32(model) if autocast else model
    else:
        freeze_parts_without_text(model)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    layers = {id(weight): index for index, layer in enumerate(layers_of(model)) for weight in layer.parameters()}
    weights = tuple(
        Weight(
            tuple(parameter.shape),
            parameter.itemsize,
            parameter.requires_grad,
            adapter=any(part in name for part in ADAPTED),
            embedding=id(parameter) in embeddings,
            linear=id(parameter) in linear,
            layer=layers.get(id(parameter)),
        )
        for name, parameter in model.named_parameters()
    )
    return Shape(weights, decoder_of(model))


def linear_weights(model) -> set[int]:
    """Return the ids of the parameters that bitsandbytes can quantize.

    These are linear weights except the head, tied ones and `direct_weights`.
    """
    kept = [*get_keys_to_not_convert(model), *direct_weights(model.config)]
    return {
        id(module.weight)
        for name, module in model.named_modules()
        if (type(module) is torch.nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, kept)
    }


def layers_of(model) -> list[torch.nn.Module]:
    """Return the decoder layers of a model; none if it has no list of them."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    return [*lists[0]] if lists else []


def decoder_of(model) -> Decoder:
    """Return the widths of a model, from its config and its first layer."""
    config = model.config.get_text_config()
    heads, query, key = attention_widths(config)
    experts = largest_setting(config, "num_experts_per_tok") or 1
    mlp = largest_setting(config, "moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim")
    layers = [dict(layer.named_modules()) for layer in layers_of(model)]
    # of the layer with the most adapters, since an adapter may skip layers
    modules = max(layers, key=lambda layer: sum(isinstance(module, LoraLayer) for module in layer.values()), default={})
    adapted = [module for module in modules.values() if isinstance(module, LoraLayer)]
    linear = [m for name, m in modules.items() if isinstance(m, (torch.nn.Linear, Conv1D)) and ".lora_" not in name]
    return Decoder(
        hidden=config.hidden_size,
        vocab=config.vocab_size if model.get_output_embeddings() is not None else 1,
        layers=config.num_hidden_layers,
        heads=heads,
        query=query,
        key=key,
        mlp=(mlp or 4 * config.hidden_size) * experts,
        gated=any("gate" in name for name in modules),
        rms=any("RMSNorm" in type(module).__name__ for module in modules.values()),
        unfused_gelu=getattr(config, "activation_function", None) == "gelu_new",
        attention_dropout=bool(getattr(config, "attention_dropout", 0) or getattr(config, "attn_pdrop", 0)),
        linear=sum(module.weight.numel() for module in linear),
        dora=any("lora_magnitude_vector." in name for name in modules),
        adapted=tuple((module.in_features, module.out_features, module.r["default"]) for module in adapted),
    )
