"""Writes a model as a GGUF file; an adapter is merged into its base first."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from transformers import PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME

from hfkit.commands.export.chat_format import opening_bos
from hfkit.commands.export.converter import convert_folder, require_convertible
from hfkit.commands.export.job import ExportJob
from hfkit.core.console import say
from hfkit.core.errors import HfkitError
from hfkit.core.hub_fetch import local_folder
from hfkit.core.hub_files import MODEL_FILES, matches
from hfkit.data.messages import RenderError
from hfkit.data.template_source import without_generation_tags
from hfkit.records.source import find_file

MERGE_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "q8_0": "float32"}
"""The converter's dtype -> the dtype to merge an adapter in, so that weights are rounded only once."""
LARGEST_F16 = 65504.0
SENTENCEPIECE = "tokenizer.model"
GGUF_README = """# {name}

A GGUF file, made from {path} by `hfkit export`.

```bash
llama-server --jinja -m {file}
llama-cli --jinja -m {file}
```
"""


@dataclass(frozen=True)
class GGUFFile:
    """A GGUF file made from a model.

    Args:
        model: the folder of the model that was converted.
        adds_bos: whether the file's tokenizer puts a BOS token before a text.
    """

    path: Path
    model: Path
    adds_bos: bool


def export_gguf(job: ExportJob, folder: Path) -> None:
    """Write a GGUF file with a README."""
    file = write_gguf(job, folder)
    text = GGUF_README.format(name=job.name, path=job.source.path, file=file.path.name)
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_gguf(job: ExportJob, folder: Path) -> GGUFFile:
    """Write the GGUF file of a model into a staged folder.

    Raises:
        HfkitError: the converter does not support the architecture or the tokenizer (checked before weights are read);
            some weights are infinite in the file's dtype; or the adapter cannot be merged.
    """
    source, dtype = job.source, job.dtype or "f16"
    out, inputs = folder / f"model-{dtype}.gguf", folder.parent / "inputs"
    inputs.mkdir()
    link(find_file(source.base, CONFIG_NAME, source.base_revision), inputs)
    write_tokenizer(job, inputs)
    require_convertible(job.script, inputs, source.path)
    if source.adapter is None:
        model = Path(local_folder(source.path, source.revision, MODEL_FILES))
    else:
        model = job.merge_into(folder.parent / "merged", MERGE_DTYPES[dtype])
    for file in sorted(model.iterdir()):
        if matches(file.name, MODEL_FILES):
            link(file, inputs)
    if dtype in ("f16", "q8_0"):  # q8_0 has scales in float16
        require_in_range(inputs, source.path)
    say(f"export: {source.path} to {out.name}")
    options = ("--outtype", dtype, "--model-name", job.name)
    adds_bos = convert_folder(job.script, inputs, out, source.path, *options, adds_bos=begins_with_bos(job.tokenizer))
    return GGUFFile(out, model, adds_bos)


def write_tokenizer(job: ExportJob, folder: Path) -> None:
    """Save the tokenizer for the converter, and remove the tags that only Transformers reads from its chat template.

    SentencePiece's `tokenizer.model` is copied, since Transformers does not save it and some models need it.
    """
    tokenizer, source = deepcopy(job.tokenizer), job.source
    own = tokenizer.chat_template
    if isinstance(own, dict):
        tokenizer.chat_template = {name: without_generation_tags(template) for name, template in own.items()}
    elif own:
        tokenizer.chat_template = without_generation_tags(own)
    tokenizer.save_pretrained(folder)
    origins = [(source.path, source.revision), (source.base, source.base_revision)]
    found = (find_file(path, SENTENCEPIECE, revision) for path, revision in origins)
    if file := next(filter(None, found), None):
        link(file, folder)


def link(file: Path, folder: Path) -> None:
    """Link a file into a folder, replacing a file of the same name."""
    (folder / file.name).unlink(missing_ok=True)
    (folder / file.name).symlink_to(file.resolve())


def begins_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool | None:
    """Return whether the tokenizer must begin conversations with the BOS token; None for the converter's choice.

    It must if the chat template does: programs remove the token from the rendered text, or render without it.
    """
    if not tokenizer.chat_template:
        return None
    try:
        return bool(opening_bos(tokenizer))
    except RenderError:
        return None


def require_in_range(folder: Path, model: str) -> None:
    """Raise HfkitError if some of the weights in a folder are infinite in float16."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():
                tensor = weights.get_tensor(name)
                if tensor.is_floating_point() and tensor.float().abs().max() > LARGEST_F16:
                    raise HfkitError(f"weights of {model} are infinite in float16, such as {name}: use --dtype bf16")
