"""Writes a folder for vLLM, with the command line to serve it: a merged model, or an adapter with its base."""

import shlex
import shutil
from pathlib import Path

from peft import LoraConfig, PeftType
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import GENERATION_CONFIG_NAME

from hfkit.commands.export.job import ExportJob
from hfkit.core.console import say
from hfkit.core.errors import HfkitError
from hfkit.core.hub_fetch import local_folder
from hfkit.core.hub_files import LOADED_FILES, matches
from hfkit.hub.model_files import list_files
from hfkit.models.adapter_shape import on_meta
from hfkit.models.adapter_support import base_change, require_supported
from hfkit.models.adapters import ADAPTER_WEIGHTS, PREFIX
from hfkit.models.model_config import context_tokens, read_config
from hfkit.models.multimodal import is_text_model_of, stored_names
from hfkit.records.base import require_own_base
from hfkit.records.source import Source

DTYPES_SERVED = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for `--max-lora-rank`."""
NOT_SERVED = (
    *("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters"),
    *("rank_pattern", "alpha_pattern", "lora_bias", "alora_invocation_tokens", "use_bdlora", "use_qalora"),
)
"""Settings of an adapter that vLLM rejects or ignores, at least in one of the versions 0.26 to 0.33."""
VLLM_README = """## Serve with vLLM

In this folder:

```bash
{command}
```

and from another terminal:

```bash
curl http://localhost:8000/v1/{route} -H 'Content-Type: application/json' -d '{{"model": "{name}", {prompt}}}'
```
"""


def export_vllm(job: ExportJob, folder: Path) -> None:
    """Write a model, or an adapter, and a README with the command that serves it, which is printed too.

    Raises:
        HfkitError: vLLM cannot serve the adapter, or it cannot be merged.
    """
    source = job.source
    if job.keep_adapter:
        require_served(source)
    if source.adapter is None or job.keep_adapter:
        copy_files(source, folder)
        if is_on_text_model(source):
            name_as_base(source, folder)
    else:
        job.merge_into(folder, DTYPES_SERVED[job.dtype or "bf16"])
    if job.keep_adapter:  # otherwise vLLM uses the chat template and the stop tokens of the base
        job.tokenizer.save_pretrained(folder)
        if not (folder / GENERATION_CONFIG_NAME).is_file():
            (folder / GENERATION_CONFIG_NAME).write_text("{}\n", encoding="utf-8")
    readme = folder / "README.md"
    before = readme.read_text(encoding="utf-8").rstrip() + "\n\n" if readme.is_file() else f"# {job.name}\n\n"
    readme.write_text(before + readme_section(job, serve_command(job, folder, ".")), encoding="utf-8")
    say(f"export: {shlex.join(serve_command(job, folder, str(job.out)))}")


def require_served(source: Source) -> None:
    """Raise HfkitError if vLLM cannot serve an adapter with its base."""
    require_own_base(source)
    require_supported(source, to_merge=True)
    if (adapter := source.adapter) is None:
        return
    if (kind := adapter.get("peft_type")) != PeftType.LORA:
        raise HfkitError(f"{source.path} is a {kind} adapter: vLLM serves only LORA")
    given = [name for name in NOT_SERVED if adapter.get(name)]
    given += ["r"] if adapter.get("r", 0) > LORA_RANKS[-1] else []
    change = base_change(adapter)
    if given or change:
        settings = ", ".join([*(f"{name}: {adapter[name]}" for name in given), *([change] if change else [])])
        raise HfkitError(f"vLLM cannot serve an adapter with {settings}: remove --adapter to merge {source.path}")


def copy_files(source: Source, folder: Path) -> None:
    """Copy the files of a model or an adapter that loaders read, and its card."""
    model = Path(local_folder(source.path, source.revision, (*LOADED_FILES, "README.md")))
    for name in list_files(model):
        if matches(name, (*LOADED_FILES, "README.md")):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(model / name, folder / name)


def is_on_text_model(source: Source) -> bool:
    """Return whether a source is an adapter on the text model of a multimodal base."""
    if source.adapter is None:
        return False
    return is_text_model_of(source.base, read_config(source.base, source.base_revision), source.base_revision)


def name_as_base(source: Source, folder: Path) -> None:
    """Give the weights of an adapter in a folder the names of its base, see `stored_names`.

    vLLM loads a multimodal base as a whole, and ignores an adapter's weights with other names.
    """
    text_model = on_meta(read_config(source.base, source.base_revision), AutoModelForCausalLM)
    stored, file = stored_names(text_model, source.base, source.base_revision), folder / ADAPTER_WEIGHTS
    weights = load_file(file)
    renamed = {PREFIX + stored(name.removeprefix(PREFIX)): weight for name, weight in weights.items()}
    save_file(renamed, file, metadata={"format": "pt"})


def served_folder(source: Source, copy: Path) -> str:
    """Return the folder of an adapter for vLLM: its own, or a copy with the names of its multimodal base."""
    if not is_on_text_model(source):
        return local_folder(source.path, source.revision, LOADED_FILES)
    copy.mkdir()
    copy_files(source, copy)
    name_as_base(source, copy)
    return str(copy)


def serve_command(job: ExportJob, folder: Path, path: str) -> list[str]:
    """Return the command that serves a folder.

    Args:
        path: of the folder, for the command.
    """
    source = job.source
    if not job.keep_adapter:
        options = ["--served-model-name", job.name]
        return ["vllm", "serve", path, *options, *dtype_and_context_options(str(folder), "main", job.dtype)]
    rank = next(rank for rank in LORA_RANKS if rank >= source.adapter.get("r", LoraConfig.r))
    options = ["--revision", source.base_revision] if source.base_revision != "main" else []
    options += ["--enable-lora", "--lora-modules", f"{job.name}={path}", "--max-lora-rank", str(rank)]
    options += ["--generation-config", path]
    if job.tokenizer.chat_template:
        options += ["--chat-template", str(Path(path) / "chat_template.jinja")]
    return [
        "vllm",
        "serve",
        source.base,
        *options,
        *dtype_and_context_options(source.base, source.base_revision, job.dtype),
    ]


def dtype_and_context_options(path: str, revision: str, dtype: str | None) -> list[str]:
    """Return the options for the dtype, by default that of the stored weights, and for the context length in tokens."""
    config = read_config(path, revision)
    named = DTYPES_SERVED[dtype] if dtype else str(config.dtype or "auto").removeprefix("torch.")
    context = context_tokens(config)
    return ["--dtype", named, *(["--max-model-len", str(context)] if context else [])]


def readme_section(job: ExportJob, command: list[str]) -> str:
    """Return the README's section on serving and querying a model; without a chat template it completes texts."""
    route, prompt = "completions", '"prompt": "Hello"'
    if job.tokenizer.chat_template:
        route, prompt = "chat/completions", '"messages": [{"role": "user", "content": "Hello"}]'
    return VLLM_README.format(command=shlex.join(command), route=route, name=job.name, prompt=prompt)
