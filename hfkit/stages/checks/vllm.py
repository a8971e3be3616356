"""Validates `rollout_engine: vllm` and its keys: vLLM, a GPU, the server, and the model that it serves."""

import math
import os
from importlib import import_module
from importlib.util import find_spec
from urllib.parse import urlsplit

import trl
from packaging.version import InvalidVersion, Version
from transformers import PreTrainedConfig

from hfkit.config.online import OnlineConfig
from hfkit.config.validation import default_of
from hfkit.core.device import has_bf16
from hfkit.core.errors import HfkitError, Kind, Problem, reason
from hfkit.models.adapter_support import has_variant
from hfkit.models.engine_errors import EngineError
from hfkit.models.precision import computes_in_bf16
from hfkit.models.vllm_server import Served, served_by
from hfkit.records.source import Source
from hfkit.stages.checks.rules import broken_rules

ENGINE, MODE, URL = "rollout_engine", "vllm_mode", "vllm_server_base_url"
MODES = {URL: "server", "vllm_server_timeout": "server", "vllm_group_port": "server"}
MODES |= {"vllm_gpu_memory_utilization": "colocate"}
"""The keys of one mode."""
SOURCE_KEYS = ("model_name_or_path", "model_revision")
OLDEST = Version("0.26")
"""The oldest version of vLLM; older servers do not report whether they have reset their prefix cache."""


def vllm_problems(config: OnlineConfig, model_config: PreTrainedConfig | None) -> list[Problem]:
    """Return every problem of rollouts with vLLM; this queries the server for the model that it serves.

    Args:
        model_config: of the model that the policy starts from; None if it does not exist yet.
    """
    problems = effect_of_keys(config)
    if config.rollout_engine != "vllm":
        return problems
    problems += broken_rules(config, model_rules(config) + number_rules(config))
    if fault := environment_fault(config.vllm_mode):
        return [*problems, Problem(ENGINE, "vllm", fault, Kind.NOT_HERE, (MODE,))]
    if model_config is not None and config.vllm_mode == "colocate":
        problems += sharing_problems(model_config)
    elif model_config is not None and not any(one.key == URL for one in problems):
        problems += server_problems(config)
    return problems


def effect_of_keys(config: OnlineConfig) -> list[Problem]:
    """Return problems of vLLM's keys that are set and have no effect."""
    set_keys = {
        name: field
        for name, field in OnlineConfig.__dataclass_fields__.items()
        if (name in MODES or name == MODE) and getattr(config, name) != default_of(field)
    }
    problems = []
    for name in set_keys:
        if config.rollout_engine != "vllm":
            remedy, key = "has no effect without rollout_engine: vllm", ENGINE
        elif config.vllm_mode != MODES.get(name, config.vllm_mode):
            remedy, key = f"has no effect without vllm_mode: {MODES[name]}", MODE
        else:
            continue
        problems.append(Problem(name, getattr(config, name), remedy, keys=(key,)))
    return problems


def model_rules(config: OnlineConfig) -> list[tuple]:
    """Return the rules of models that vLLM can sample from, with the adapter merged."""
    try:
        adapter = Source.of(config.model_name_or_path or "", config.model_revision).adapter
    except (HfkitError, OSError, ValueError):  # the checks of the path report it
        adapter = None
    variant = config.use_peft and has_variant(adapter or vars(config))
    other = "set rollout_engine: generate"
    merged = "vLLM samples with the adapter merged: remove it"
    merge = (
        "full fine-tuning starts from an adapter, but vLLM would serve its base: merge them with `hfkit merge` first"
    )
    return [
        (adapter is not None and not config.use_peft, ENGINE, merge, "use_peft", *SOURCE_KEYS),
        (config.use_peft and not config.merge_in_rollouts, "merge_in_rollouts", merged, ENGINE),
        (variant, ENGINE, f"an adapter with DoRA or whole modules cannot be merged into copies: {other}", *SOURCE_KEYS),
        (config.load_in_8bit, ENGINE, f"vLLM cannot use 8-bit weights: {other}, or load_in_4bit", "load_in_8bit"),
    ]


def number_rules(config: OnlineConfig) -> list[tuple]:
    """Return the rules of numbers and of the server's URL."""
    parts = urlsplit(config.vllm_server_base_url)
    try:
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # an invalid port
        is_url = False
    has_more = bool(parts.username or parts.password or parts.query or parts.fragment)
    share, seconds, port = config.vllm_gpu_memory_utilization, config.vllm_server_timeout, config.vllm_group_port
    return [
        (not is_url or has_more, URL, "expected a URL such as http://127.0.0.1:8000"),
        (not 0 < seconds < math.inf, "vllm_server_timeout", "must be above 0, in seconds"),
        (not 0 < port < 1 << 16, "vllm_group_port", "must be from 1 to 65535"),
        (not 0 < share < 1, "vllm_gpu_memory_utilization", "must be above 0 and below 1"),
    ]


def environment_fault(mode: str) -> str | None:
    """Return why vLLM cannot run here, or None.

    Args:
        mode: server or colocate.
    """
    if find_spec("vllm") is None:
        return "vLLM is not installed: pip install 'hfkit[vllm]', or set rollout_engine: generate"
    try:
        release = str(import_module("vllm").__version__)
        has_gpu = import_module("vllm.platforms").current_platform.is_cuda_alike()
    except Exception as error:  # built for another torch, or for another CUDA
        return f"vLLM cannot be imported: {reason(error)}: reinstall it for this torch"
    if is_too_old(release):
        return f"vLLM {release} is installed, and {OLDEST} or newer is needed: pip install -U 'hfkit[vllm]'"
    if not has_gpu:
        return "vLLM needs a GPU, and none is available: set rollout_engine: generate"
    return client_fault(release) if mode == "server" else None


def is_too_old(release: str) -> bool:
    """Return whether a version of vLLM is older than `OLDEST`; builds from source are accepted."""
    try:
        version = Version(release)
    except InvalidVersion:
        return False
    return not version.is_devrelease and version < OLDEST


def client_fault(release: str) -> str | None:
    """Return why TRL's client cannot send weights to a server of this version of vLLM, or None.

    vLLM 0.28 replaced the functions that send weights; TRL calls the new ones since 1.13.
    """
    try:
        import_module("trl.generation.vllm_client")
    except ImportError as error:
        remedy = "vLLM 0.28 or newer needs TRL 1.13 or newer: pip install -U trl, or set vllm_mode: colocate"
        return f"TRL {trl.__version__} cannot send weights to vLLM {release} ({reason(error)}): {remedy}"
    return None


def sharing_problems(model_config: PreTrainedConfig) -> list[Problem]:
    """Return the problem of a model from which vLLM cannot sample in the process that trains it.

    An architecture for which vLLM has no class runs with Transformers' class, which vLLM changes for the whole process
    (`support_torch_compile`), so that no other model of this class can compute.
    """
    registered = import_module("vllm").ModelRegistry.models
    for architecture in model_config.architectures or ():
        found = registered.get(architecture)
        if found is None or getattr(found, "module_name", "").endswith(".transformers"):
            remedy = "set vllm_mode: server, or rollout_engine: generate"
            fault = f"vLLM runs {architecture} with Transformers' class, which it changes for the policy too: {remedy}"
            return [Problem(ENGINE, "vllm", fault, Kind.NOT_HERE, (MODE, *SOURCE_KEYS))]
    return []


def server_problems(config: OnlineConfig) -> list[Problem]:
    """Return problems of the server: it cannot be reached, does not fit, or serves another model."""
    url = config.vllm_server_base_url
    base = Source.of(config.model_name_or_path or "", config.model_revision).base
    tokens = config.max_prompt_length + config.response_length
    bf16 = computes_in_bf16(config, has_bf16())
    start = f"VLLM_SERVER_DEV_MODE=1 vllm serve {base} --dtype {'bfloat16' if bf16 else 'float32'}"
    start += """ --weight-transfer-config '{"backend": "nccl"}'"""
    try:
        served = served_by(url)
    except EngineError as error:
        return [Problem(URL, url, f"{error} ({start})", Kind.NOT_HERE, (ENGINE, MODE))]
    if not serves(served, base):
        names = " or ".join(dict.fromkeys(served.names))
        remedy = f"it serves {names}, but the policy's base is {base}: {start}"
        return [Problem(URL, url, remedy, Kind.NOT_HERE, (*SOURCE_KEYS, ENGINE))]
    if served.context is not None and tokens > served.context:
        remedy = f"it takes {served.context} tokens, fewer than max_prompt_length + response_length: start it with "
        remedy += f"--max-model-len {tokens}"
        return [Problem(URL, url, remedy, Kind.NOT_HERE, ("max_prompt_length", "response_length", ENGINE))]
    fits = ("float32", "bfloat16") if bf16 or config.dtype == "bfloat16" else ("float32",)
    if served.dtype is not None and served.dtype not in fits:
        remedy = f"it computes in {served.dtype}, which loses small changes of the weights: {start}"
        remedy += "" if bf16 else ", or set bf16: true, which rounds them stochastically"
        return [Problem(URL, url, remedy, Kind.NOT_HERE, ("bf16", ENGINE))]
    return []


def serves(served: Served, base: str) -> bool:
    """Return whether a server serves a model, by its name or folder."""
    folders = {os.path.realpath(name) for name in served.names if os.path.isdir(name)}
    return base in served.names or (os.path.isdir(base) and os.path.realpath(base) in folders)
