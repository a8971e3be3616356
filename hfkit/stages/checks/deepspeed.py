"""Validates a launch under DeepSpeed: settings that it cannot train or save, or that would override the config.

`accelerate launch` passes settings in environment variables; a config passes them in the field `deepspeed` of the
trainer's arguments, as a JSON file or a mapping.
"""

import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.utils.cpp_extension import CUDA_HOME, is_ninja_available
from transformers.integrations.deepspeed import is_deepspeed_available

from hfkit.config.registry import StageSpec
from hfkit.core.device import process_state
from hfkit.core.errors import HfkitError, Problem, reason
from hfkit.core.files import read_text
from hfkit.core.launch import DEEPSPEED, DEEPSPEED_FILE, ZERO_3_GATHERS, deepspeed_of_environment
from hfkit.core.limits import load_json
from hfkit.models.zero import CANNOT_MERGE
from hfkit.records.source import Source
from hfkit.stages.checks.fsdp import WITHOUT_SHARDS
from hfkit.stages.checks.sharding import EIGHT_BIT_UNDER_ZERO_3, WITH_DDP, sharding_remedy

DEEPSPEED_LAUNCH = "accelerate launch --use_deepspeed"
ZERO_STAGES = (1, 2, 3)
REQUIRED = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
}
"""DeepSpeed's settings -> keys of the config; a file must set them (to "auto"), since DeepSpeed's defaults differ."""
OPTIMIZER = {"lr": "learning_rate", "weight_decay": "weight_decay"}
"""The same for `optimizer.params`."""


def deepspeed_problems(config, spec: StageSpec) -> list[Problem]:
    """Return the problems of DeepSpeed's settings in a config and in its launch."""
    key, given = "deepspeed", config.extra.get("deepspeed")
    if not given:
        given = deepspeed_of_environment()
        key = DEEPSPEED_FILE if isinstance(given, str) else DEEPSPEED
    if not given:
        return []
    if not is_deepspeed_available():
        return [Problem(key, given, "DeepSpeed is not installed: pip install 'hfkit[deepspeed]'")]
    if remedy := sharding_remedy(spec, "DeepSpeed"):
        return [Problem(key, given, remedy)]
    if "LOCAL_RANK" not in os.environ:
        return [
            Problem(
                key, given, f"DeepSpeed needs a launcher, even for one process: `{DEEPSPEED_LAUNCH} -m hfkit.cli ...`"
            )
        ]
    try:
        settings = given if isinstance(given, dict) else load_json(read_text(Path(given)))
    except (HfkitError, OSError, ValueError) as error:
        return [Problem(key, given, f"cannot be read as JSON: {reason(error)}")]
    if not isinstance(settings, dict) or not isinstance(settings.get("zero_optimization"), dict):
        return [Problem(key, given, 'expected a mapping with "zero_optimization": {"stage": 2} or 3')]
    remedies = [*stage_remedies(settings["zero_optimization"], config), *batch_remedies(settings, key)]
    remedies += [*optimizer_remedies(settings, config)]
    found = merge_problems(config) if str(settings["zero_optimization"].get("stage")) == "3" else []
    return [Problem(key, given, remedy) for remedy in remedies] + found + ineffective_problems(config)


def stage_remedies(zero: dict[str, Any], config) -> Iterator[str]:
    """Yield remedies for the settings of ZeRO."""
    stage = str(zero.get("stage"))
    if stage not in map(str, ZERO_STAGES):
        yield f"zero_optimization.stage is {stage}: set 2 or 3, or {WITH_DDP}"
    elif stage == "3" and getattr(config, "load_in_8bit", False):
        yield EIGHT_BIT_UNDER_ZERO_3
    if stage == "3" and zero.get(ZERO_3_GATHERS) is not True:
        yield f"checkpoints would lack the weights: set zero3_save_16bit_model, or {ZERO_3_GATHERS} in a file, to true"


def batch_remedies(settings: dict[str, Any], key: str) -> Iterator[str]:
    """Yield remedies for settings that override keys of the config; accelerate's settings never do."""
    for name, own in REQUIRED.items() if key != DEEPSPEED else ():
        if name not in settings:
            yield f'{name} is missing, so {own} would have no effect: add "{name}": "auto"'
    if "scheduler" in settings:
        yield "its scheduler would replace lr_scheduler_type and warmup_steps: remove it"
    if settings.get("tensor_parallel", {}).get("autotp_size", 1) > 1:
        yield "hfkit does not split the tensors of a layer: remove tensor_parallel"


def optimizer_remedies(settings: dict[str, Any], config) -> Iterator[str]:
    """Yield remedies for an optimizer of DeepSpeed: what to change or to install."""
    optimizer, zero = settings.get("optimizer"), settings["zero_optimization"]
    for name, own in OPTIMIZER.items() if optimizer else ():
        if name not in optimizer.get("params", {}):
            yield f'optimizer.params.{name} is missing, so {own} would have no effect: set it to "auto"'
    on_cpu = zero.get("offload_optimizer", {}).get("device", "none") != "none"
    on_cpu = on_cpu and settings.get("zero_force_ds_cpu_optimizer", True)
    if (optimizer is None and not on_cpu) or (optimizer or {}).get("params", {}).get("torch_adam"):
        return
    if missing := missing_compiler("cpu_adam" if on_cpu else "fused_adam", process_state(config.extra).device):
        instead = '"zero_force_ds_cpu_optimizer": false' if on_cpu else 'no optimizer, for that of the key "optim"'
        yield f"DeepSpeed compiles this optimizer, which needs {missing}: install it, or set {instead}"


def missing_compiler(op: str, on: torch.device) -> str | None:
    """Return what is missing to compile an op of DeepSpeed, or None if it can be compiled or is compiled already.

    Args:
        op: its name in DeepSpeed, such as "cpu_adam".
        on: the device of this process.
    """
    if import_module("deepspeed.git_version_info").installed_ops.get(op):
        return None
    if not is_ninja_available():
        return "ninja"
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        return "a C++ compiler"
    return "the CUDA toolkit (nvcc)" if on.type == "cuda" and CUDA_HOME is None else None


def merge_problems(config) -> list[Problem]:
    """Return the problem of an adapter that ZeRO-3 would have to merge into its base."""
    path = config.model_name_or_path
    try:
        adapter = Source.of(path, config.model_revision).adapter if path and not config.use_peft else None
    except HfkitError:  # other checks report it
        return []
    return [Problem("model_name_or_path", path, CANNOT_MERGE)] if adapter else []


def ineffective_problems(config) -> list[Problem]:
    """Return problems of what has no effect under DeepSpeed."""
    problems = []
    if process_state(config.extra).distributed_type in WITHOUT_SHARDS:
        problems.append(Problem(DEEPSPEED, True, "accelerate uses DeepSpeed on GPUs only: turn it off"))
    if getattr(config, "max_tokens_per_micro_batch", None):
        remedy = "DeepSpeed does not split the batches of per_device_train_batch_size: remove it"
        problems.append(Problem("max_tokens_per_micro_batch", config.max_tokens_per_micro_batch, remedy))
    return problems
