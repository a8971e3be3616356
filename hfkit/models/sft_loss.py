"""Chooses a loss of TRL's SFT that is correct for a model with an adapter on its head, or with a router loss."""

import sys
from importlib.metadata import version

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel

from hfkit.core.compat_trl import fuses_head
from hfkit.core.errors import ConfigError, Problem
from hfkit.core.unwrap import without_adapter
from hfkit.models.generation import ROUTER_LOSS

ROUTER_KEY, SMOOTHING = "router_aux_loss_coef", "label_smoothing_factor"
ROUTED = ("experts", "router_gate")
"""Names of the modules to which a router sends tokens; Doge's experts are no modules, so its router itself."""


def loss_arguments(model: PreTrainedModel | PeftModel, config) -> dict:
    """Return the arguments `loss_type` and `router_aux_loss_coef` of TRL's SFT if its defaults do not fit a model.

    TRL's default `chunked_nll` multiplies by the weights of the head directly, and computes the router loss from keys
    that not every mixture of experts has; `nll` is the same loss through the model's forward pass.

    Raises:
        ConfigError: a setting in `config.extra` requests a loss that the model cannot compute.
    """
    base = without_adapter(model)
    arguments = router_arguments(model, config) | smoothing_arguments(config)
    if fits_fused_head(base, is_mixture(base) and arguments.get(ROUTER_KEY, config.extra.get(ROUTER_KEY)) != 0):
        return arguments
    is_adapted = has_adapted_head(base)
    why = "ignores the adapter on the output head" if is_adapted else "does not find the router's settings"
    remedy = f"it {why} of this model: remove it"
    if is_adapted and config.extra.get("use_liger_kernel"):
        raise ConfigError([Problem("use_liger_kernel", True, remedy)])
    if config.extra.get("loss_type") == "chunked_nll":
        raise ConfigError([Problem("loss_type", "chunked_nll", f"{remedy}, or set nll")])
    return {**arguments, "loss_type": config.extra.get("loss_type", "nll")}


def smoothing_arguments(config) -> dict:
    """Return the `loss_type` of TRL's SFT that Transformers can smooth, if a config requests label smoothing.

    Raises:
        ConfigError: another loss is requested, or TRL computes none from the model's logits.
    """
    factor, loss = config.extra.get(SMOOTHING), config.extra.get("loss_type", "nll")
    if not factor:
        return {}
    if loss != "nll":
        raise ConfigError([Problem(SMOOTHING, factor, f"{loss} has none: remove one", keys=("loss_type",))])
    if fuses_head(config.trainer_config_class()):
        remedy = f"the losses of TRL {version('trl')} have none: remove it, or install trl 1.12"
        raise ConfigError([Problem(SMOOTHING, factor, remedy)])
    return {"loss_type": "nll"}


def router_settings(model: PreTrainedModel | PeftModel) -> dict:
    """Return the settings of the router loss in a model's config, which TRL replaces by those of the training."""
    settings = vars(model.config.get_text_config())
    return {key: settings[key] for key in (ROUTER_LOSS, ROUTER_KEY) if key in settings}


def router_arguments(model: PreTrainedModel | PeftModel, config) -> dict:
    """Return `router_aux_loss_coef: 0` for a mixture of experts without a router loss that TRL's trainers can read.

    Raises:
        ConfigError: `config.extra` requests the router loss of a model that has none.
    """
    base = without_adapter(model)
    if has_router_loss(base):
        return {}
    if coefficient := config.extra.get(ROUTER_KEY):
        raise ConfigError([Problem(ROUTER_KEY, coefficient, f"{type(base).__name__} has no router loss: remove it")])
    return {ROUTER_KEY: 0.0} if is_mixture(base) and coefficient != 0 else {}


def is_mixture(model: PreTrainedModel) -> bool:
    """Return whether the config of a model has router logits, as for a mixture of experts."""
    return getattr(model.config.get_text_config(), ROUTER_LOSS, None) is not None


def fits_fused_head(model: PreTrainedModel, adds_router_loss: bool) -> bool:
    """Return whether TRL's loss from the output head's weights is correct, including a router loss if one is added."""
    has_keys = all(hasattr(model.config.get_text_config(), key) for key in ("num_experts", "num_experts_per_tok"))
    return not has_adapted_head(model) and (has_keys or not adds_router_loss)


def has_adapted_head(model: PreTrainedModel) -> bool:
    """Return whether the output head of a model has an adapter, or is trained in full next to one."""
    return isinstance(model.get_output_embeddings(), (BaseTunerLayer, AuxiliaryTrainingWrapper))


def has_router_loss(model: PreTrainedModel) -> bool:
    """Return whether the forward pass of a model computes a loss of its routers.

    A model of an architecture with experts may have none, for example Granite 4.0 Micro.
    """
    module = sys.modules[type(model).__module__]
    computes = hasattr(model.config.get_text_config(), ROUTER_KEY) and hasattr(module, "load_balancing_loss_func")
    return computes and any(name.rpartition(".")[2] in ROUTED for name, _ in model.named_modules())
