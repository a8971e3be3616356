"""Validates settings by creating the trainer's arguments, trackers, optimizer and schedule from them."""

import copy
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, replace

import torch
from torch.distributed import Backend
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from hfkit.config.validation import EXTRA, default_of
from hfkit.core.errors import HfkitError, Problem, reason
from hfkit.training.arguments import trainer_arguments

CHOICES = {
    "loss_type": ("nll", "dft", "chunked_nll"),  # TRL's SFT reads it only when the model is loaded
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    "train_sampling_strategy": ("random", "sequential", "group_by_length", "batch_rebalance"),
    "ddp_backend": tuple(name for name in Backend.backend_list if name != Backend.UNDEFINED),
}
"""Allowed values of settings that the trainer's arguments do not validate."""
IN_BACKWARD = ("lomo", "layerwise")
"""Ends of the names of optimizers that update weights within each backward pass."""
OPTIMIZER_KEYS = ("optim_args", "adam_beta1", "adam_beta2", "adam_epsilon")
"""Settings that not every optimizer reads."""
READ_MODULES = ("galore", "apollo")
"""What the optimizers that read `optim_target_modules` have in their names."""
UNKNOWN_STEPS = 1000
"""Optimizer steps to try a schedule with if the config sets none."""


def trainer_problems(config) -> list[Problem]:
    """Return the settings that the trainer's own config class rejects, each with the library's reason.

    A setting is at fault if the same error no longer occurs with its default. If several are, such as two that
    contradict each other, the problem is reported under the last one and names the others.
    """
    for key, choices in CHOICES.items():
        if config.extra.get(key) not in (None, *choices):
            problem = Problem(key, config.extra[key], f"expected one of: {', '.join(choices)}")
            return [problem, *trainer_problems(with_default(config, key))]
    error = trainer_error(config)
    if error is None:
        return []
    settings = {**vars(config), **config.extra}
    *others, key = [name for name in settings if trainer_error(with_default(config, name)) != error] or ["trainer"]
    problem = Problem(key, settings.get(key), error, keys=(*others,))
    return [problem] if key == "trainer" else [problem, *trainer_problems(with_default(config, key))]


def trainer_error(config) -> str | None:
    """Return why the trainer's arguments cannot be created from a config, or used, or None if they can."""
    if config.trainer_config_class() is None:
        return None
    try:
        arguments = trainer_arguments(config)
        arguments.get_process_log_level()
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()  # fails if the tracker's package is not installed
        try_schedule(arguments)
        try_loader(arguments)
        try_deepspeed(arguments)
    except Exception as error:  # libraries raise errors of any kind
        return reason(error)
    return None


def try_schedule(arguments: TrainingArguments) -> None:
    """Create the trainer's optimizer and learning rate schedule for one weight.

    Raises:
        Exception: raised by the libraries for settings that they reject, or packages that are not installed.
    """
    layer = torch.nn.utils.skip_init(torch.nn.Linear, 1, 1)  # draws no random numbers
    optimizer = torch.optim.SGD(layer.parameters(), lr=arguments.learning_rate)
    if arguments.optim.value.endswith(IN_BACKWARD):
        other = arguments.optim.value.removesuffix("_layerwise").replace("adalomo", "lomo").replace("lomo", "adafactor")
        raise HfkitError(
            "updates weights in each backward pass, of which a step has several, and checkpoints lack its state: set "
            f"{other}"
        )
    if arguments.optim_target_modules and not any(name in arguments.optim.value for name in READ_MODULES):
        raise HfkitError(f"optim_target_modules has no effect with optim: {arguments.optim.value}")
    if arguments.optim_target_modules is None:  # the layer is none of these
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, layer)
        defaults = {field.name: default_of(field) for field in fields(arguments)}
        for name in OPTIMIZER_KEYS:
            without = copy.copy(arguments)
            setattr(without, name, defaults[name])
            is_set = getattr(arguments, name) != defaults[name]
            if is_set and Trainer.get_optimizer_cls_and_kwargs(without, layer) == (kind, options):
                raise HfkitError(f"{name} has no effect with optim: {arguments.optim.value}")
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer):
            optimizer = kind(layer.parameters(), **options)
    steps = arguments.max_steps if arguments.max_steps > 0 else UNKNOWN_STEPS
    options = dict(arguments.lr_scheduler_kwargs or {})
    get_scheduler(arguments.lr_scheduler_type, optimizer, arguments.get_warmup_steps(steps), steps, options)


def try_loader(arguments: TrainingArguments) -> None:
    """Create a data loader with the trainer's settings; no worker process starts before the first batch.

    Raises:
        Exception: raised by torch for settings that it rejects.
    """
    names = ("num_workers", "prefetch_factor", "persistent_workers", "multiprocessing_context")
    DataLoader([0], **{name: getattr(arguments, f"dataloader_{name}") for name in names})


def try_deepspeed(arguments: TrainingArguments) -> None:
    """Compare the trainer's settings with DeepSpeed's, as the trainer does after loading the model.

    Raises:
        ValueError: some differ.
    """
    plugin = arguments.deepspeed_plugin
    if plugin is None:
        return
    settings = getattr(arguments, "hf_deepspeed_config", None)
    if settings is None:  # they come from the launcher
        settings = HfTrainerDeepSpeedConfig(plugin.hf_ds_config.config)
        settings.trainer_config_process(arguments)
    if settings.mismatches:
        differing = "; ".join(line.removeprefix("- ds ") for line in settings.mismatches)
        raise ValueError(f'DeepSpeed has other settings: {differing}: set "auto" there')


def with_default(config, key: str):
    """Return a copy of a config in which one setting, a field or a key of `extra`, has its default, if any."""
    if key in config.extra:
        return replace(config, extra={name: value for name, value in config.extra.items() if name != key})
    defaults = {field.name: default_of(field) for field in fields(config) if field.name == key != EXTRA}
    return replace(config, **{name: default for name, default in defaults.items() if default is not NO_DEFAULT})
