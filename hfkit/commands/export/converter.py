"""Runs llama.cpp's converter, `convert_hf_to_gguf.py`, in a separate process."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from hfkit.core.errors import MISSING, ConfigError, HfkitError, Problem

SCRIPT = "convert_hf_to_gguf.py"
VARIABLE = "HFKIT_GGUF_CONVERTER"
"""The environment variable with the path of the converter, or of llama.cpp's folder."""


def find_converter(given: str | None) -> Path:
    """Return llama.cpp's converter: the given one, else that of the environment variable, else that on the PATH.

    Args:
        given: the script, or llama.cpp's folder.

    Raises:
        ConfigError: there is none, or the package `gguf` that it needs is missing.
    """
    chosen = given or os.environ.get(VARIABLE)
    if chosen:
        script = Path(chosen) / SCRIPT if os.path.isdir(chosen) else Path(chosen)
        problem = Problem("converter", chosen, f"name llama.cpp's folder, or its {SCRIPT}")
    else:
        folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        script = Path(shutil.which(SCRIPT, path=folders) or SCRIPT)
        remedy = f"install llama.cpp with {SCRIPT} on the PATH, or name its folder: --converter DIR, or {VARIABLE}=DIR"
        problem = Problem("converter", MISSING, remedy)
    if not script.is_file():
        raise ConfigError([problem], "the command line")
    if find_spec("gguf") is None and not (script.parent / "gguf-py").is_dir():
        raise ConfigError([Problem("gguf", MISSING, "pip install 'hfkit[export]'")], "the installed packages")
    return script.resolve()


def require_convertible(script: Path, folder: Path, model: str) -> None:
    """Convert a vocabulary alone, which shows whether the converter knows the architecture and the tokenizer.

    Args:
        folder: the model's config and tokenizer; no weights are needed.
        model: its name for the message.

    Raises:
        HfkitError: the converter fails.
    """
    out = folder / "vocabulary.gguf"
    convert_folder(script, folder, out, model, "--vocab-only")
    out.unlink()


def convert_folder(
    script: Path, folder: Path, out: Path, model: str, *options: str, adds_bos: bool | None = None
) -> bool:
    """Convert a model's folder to a GGUF file.

    Args:
        model: its name for the message.
        options: of the converter.
        adds_bos: whether the tokenizer in the file puts a BOS token before a text; None for what it chooses.

    Returns:
        Whether it does.

    Raises:
        HfkitError: the converter fails.
    """
    settings = json.dumps({"script": str(script), "out": str(out), "adds_bos": adds_bos})
    command = [sys.executable, "-m", "hfkit.commands.export.run_converter", settings]
    arguments = [str(folder), "--outfile", str(out), *options]
    done = subprocess.run([*command, *arguments], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise HfkitError(
            f"llama.cpp's converter cannot convert {model}: {lines[-1]}: a newer llama.cpp may; --format vllm needs no "
            "conversion"
        )
    return json.loads(done.stdout.splitlines()[-1])
