"""hfkit export runs/ppo exported --format ollama

Writes a model in the format of another program that serves it; an adapter is merged into its base first.

    gguf     a GGUF file, for llama.cpp and what is built on it
    ollama   a GGUF file and a Modelfile, with the chat template in Ollama's language, and the stop tokens
    vllm     a folder of safetensors and the command line; with --adapter the unmerged adapter with its base

GGUF files are written by llama.cpp's own converter, `convert_hf_to_gguf.py`: the one on the PATH, unless --converter or
HFKIT_GGUF_CONVERTER names another. OUT is a new or empty folder; it is written completely or not at all.
"""

from argparse import Namespace
from pathlib import Path

from transformers import AutoModelForCausalLM

from hfkit.commands.export.converter import find_converter
from hfkit.commands.export.gguf_file import MERGE_DTYPES, export_gguf
from hfkit.commands.export.job import ExportJob
from hfkit.commands.export.modelfile import export_ollama
from hfkit.commands.export.vllm import DTYPES_SERVED, export_vllm
from hfkit.commands.merge import inputs_hash, load_adapter_tokenizer, mergeable_source
from hfkit.core.console import say
from hfkit.core.errors import ConfigError, HfkitError, Problem
from hfkit.core.files import file_hash, read_json_mapping, require_free_folder, write_json
from hfkit.core.staging import staged_folder
from hfkit.models.loading import is_classifier
from hfkit.models.stored_weights import require_stored
from hfkit.models.tokenizers import read_tokenizer
from hfkit.records.base import stored_quantization
from hfkit.records.source import Source

EXPORT = "export.json"
"""The file that marks an export as done: the hash of its inputs, and the sizes of its files."""
EXPORTERS = {"gguf": export_gguf, "ollama": export_ollama, "vllm": export_vllm}


def export(
    model: str,
    out: str | Path,
    format: str,
    dtype: str | None = None,
    adapter: bool = False,
    base: str | None = None,
    revision: str = "main",
    converter: str | None = None,
) -> Path:
    """Export a language model and return the folder.

    Args:
        model: folder or Hub id of a model or of an adapter.
        out: a new or empty folder; it is written completely or not at all. A folder with the same export is not
            changed.
        format: "gguf", "ollama" or "vllm".
        dtype: "f32", "f16", "bf16" or, of a GGUF, "q8_0". The default is f16 for a GGUF, and bf16 for a merged model.
        adapter: whether vLLM serves an adapter with its base instead of a merged model.
        base: path of an adapter's base; default is the one that the adapter names.
        revision: branch, tag or commit of a model on the Hub.
        converter: llama.cpp's converter, or its folder.

    Raises:
        ConfigError: with all problems of the arguments, or of a missing converter.
        HfkitError: the model cannot be exported in this format, or the adapter cannot be merged.
    """
    out = Path(out)
    if problems := argument_problems(out, format, dtype, adapter, converter):
        raise ConfigError(problems, "the command line")
    before = read_json_mapping(out / EXPORT) or {}
    if "inputs_sha256" not in before:
        require_free_folder(out)
    script = None if format == "vllm" else find_converter(converter)
    source = Source.of(str(model), revision, base)
    require_exportable(source, adapter)
    if source.adapter is not None and not adapter:
        mergeable_source(source.path, source.revision, base)
    tokenizer = load_adapter_tokenizer(source) if source.adapter else read_tokenizer(source.path, source.revision)
    script_hash = file_hash(script) if script else None
    inputs = inputs_hash(source, tokenizer, format, dtype, adapter, out.absolute().name, script_hash)
    if before == {"inputs_sha256": inputs, "files": file_sizes(out)}:
        say(f"export: already done in {out}")
        return out
    require_free_folder(out)
    job = ExportJob(source, tokenizer, out.absolute().name, out, dtype, base, adapter, script)
    with staged_folder(out, "exporting") as folder:
        EXPORTERS[format](job, folder)
        write_json(folder / EXPORT, {"inputs_sha256": inputs, "files": file_sizes(folder)})
    say(f"export: done, in {out}")
    return out


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the sizes in bytes of the files of an export, by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != EXPORT)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def argument_problems(out: Path, format: str, dtype: str | None, adapter: bool, converter: str | None) -> list[Problem]:
    """Return the problems of the arguments of an export; the model is not read."""
    problems = [] if format in EXPORTERS else [Problem("format", format, f"expected one of: {', '.join(EXPORTERS)}")]
    dtypes = [*(DTYPES_SERVED if format == "vllm" else MERGE_DTYPES)]
    if dtype is not None and dtype not in dtypes:
        problems.append(Problem("dtype", dtype, f"expected one of: {', '.join(dtypes)}", keys=("format",)))
    if adapter and format != "vllm":
        problems.append(
            Problem("adapter", adapter, "only --format vllm supports an unmerged adapter: remove it", keys=("format",))
        )
    if converter and format == "vllm":
        problems.append(Problem("converter", converter, "--format vllm converts nothing: remove it", keys=("format",)))
    if out.suffix == ".gguf":
        problems.append(Problem("out", str(out), "expected a folder; the file in it is named by --dtype"))
    return problems


def require_exportable(source: Source, keep_adapter: bool) -> None:
    """Raise HfkitError if a model is not a language model, is incomplete, or is stored quantized."""
    if is_classifier(source.path, source.revision):
        raise HfkitError(f"{source.path} is a reward model: only language models are exported")
    if source.adapter is not None:
        return
    if keep_adapter:
        raise HfkitError(f"{source.path} is a full model: remove --adapter")
    if (method := stored_quantization(source.path, source.revision)) == "bitsandbytes":
        raise HfkitError(
            f"the weights of {source.path} are stored quantized ({method}): export the full-precision model"
        )
    require_stored(source.path, source.revision, AutoModelForCausalLM)


def main(given: Namespace) -> int:
    """Run `hfkit export`."""
    export(**vars(given))
    return 0
