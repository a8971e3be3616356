"""Writes an Ollama model: a GGUF file, and a Modelfile with template, stop tokens and sampling settings."""

from pathlib import Path

from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from hfkit.commands.export.chat_format import ChatFormat, read_chat_format
from hfkit.commands.export.gguf_file import write_gguf
from hfkit.commands.export.go_template import go_template
from hfkit.commands.export.job import ExportJob
from hfkit.core.console import warn
from hfkit.core.errors import HfkitError
from hfkit.core.files import read_json_mapping
from hfkit.data.rendering import writes_today
from hfkit.models.generation import stop_ids

SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}
SAMPLING |= {"repetition_penalty": "repeat_penalty"}
"""Sampling settings of a generation config -> Ollama's names."""
QUOTES = '"""'
OLLAMA_README = """# {name}

An Ollama model, made from {path} by `hfkit export`. In this folder:

```bash
ollama create {name} -f Modelfile
ollama run {name}
```
"""


def export_ollama(job: ExportJob, folder: Path) -> None:
    """Write a GGUF file, a Modelfile and a README.

    Raises:
        HfkitError: a Modelfile cannot express the chat template; or as `write_gguf`.
    """
    chat = read_chat_format(job.tokenizer, job.source.path) if job.tokenizer.chat_template else None
    if chat and writes_today(job.tokenizer):
        warn(f"the chat template of {job.source.path} writes today's date, which is fixed in the Modelfile")
    quote(go_template(chat, adds_bos=False))  # fails before any weight is read
    file = write_gguf(job, folder)
    config = GenerationConfig.from_dict(read_json_mapping(file.model / GENERATION_CONFIG_NAME) or {})
    text = modelfile(file.path.name, job.tokenizer, config, chat, file.adds_bos)
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(OLLAMA_README.format(name=job.name, path=job.source.path), encoding="utf-8")


def modelfile(
    gguf: str, tokenizer: PreTrainedTokenizerBase, config: GenerationConfig, chat: ChatFormat | None, adds_bos: bool
) -> str:
    """Return the Modelfile for the GGUF file of this name in the same folder.

    Args:
        config: the model's, for its stop tokens and sampling settings.
        chat: the format of the chat template; None without one.
        adds_bos: whether the file's tokenizer puts a BOS token before a prompt.
    """
    lines = [f"FROM ./{gguf}"]
    if chat and chat.system_at is None:
        lines.append("# The chat template has no system message: a given one is ignored.")
    lines.append(f"TEMPLATE {quote(go_template(chat, adds_bos))}")
    if chat and chat.default_system:
        lines.append(f"SYSTEM {quote(chat.default_system)}")
    stop_tokens = tokenizer.convert_ids_to_tokens(stop_ids(config, tokenizer))
    lines += [f"PARAMETER stop {quote(token)}" for token in stop_tokens]
    given = {name: getattr(config, key, None) for key, name in SAMPLING.items()} if config.do_sample else {}
    lines += [f"PARAMETER {name} {value}" for name, value in given.items() if value is not None]
    return "\n".join(lines) + "\n"


def quote(text: str) -> str:
    """Return a value in the quotes of a Modelfile, which has no escapes.

    Raises:
        HfkitError: the text contains three quotes in a row, which would end it.
    """
    if QUOTES in text or text.endswith('"'):
        raise HfkitError(f"a Modelfile cannot quote {text!r}: use --format gguf")
    return f"{QUOTES}{text}{QUOTES}"
