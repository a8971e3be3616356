"""python -m hfkit.commands.export.run_converter SETTINGS ARGUMENTS: runs llama.cpp's converter on ARGUMENTS.

The converter changes the path, arguments and logging of its process. SETTINGS is JSON: `script`, the converter; `out`,
the file that it writes; `adds_bos`, whether the tokenizer in that file puts a BOS token before a text, or null for the
converter's choice. The last line of the output states whether it does, as JSON.
"""

import json
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from hfkit.core.compat import name_pre_tokenizer

GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
ADDS_BOS = "tokenizer.ggml.add_bos_token"


def load_script(path: Path) -> ModuleType:
    """Return a script as a module that can import files from its folder."""
    sys.path.insert(0, str(path.parent))
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses in it look it up
    spec.loader.exec_module(module)
    return module


def pre_tokenizer_name(tokenizer) -> str | None:
    """Return llama.cpp's name for a fast tokenizer's pre-tokenizer if it behaves like GPT-2's, else None.

    The converter recognizes a pre-tokenizer by the token ids of a text, which a new vocabulary changes.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    splits = GPT2.items() <= (parts["pre_tokenizer"] or {}).items() and parts["normalizer"] is None
    merges = parts["model"]["type"] == "BPE" and not parts["model"].get("ignore_merges")
    return "gpt-2" if splits and merges else None


def set_bos(out: Path, adds_bos: bool | None) -> bool:
    """Set whether the tokenizer of a GGUF file puts a BOS token before a text, and return whether it does."""
    field = import_module("gguf").GGUFReader(out, "r+").get_field(ADDS_BOS)  # the converter's own gguf
    if field is None:  # llama.cpp then adds none; files with SentencePiece vocabularies always have the field
        return False
    value = field.parts[field.data[0]]
    if adds_bos is not None:
        value[0] = adds_bos
    return bool(value[0])


def main() -> None:
    """Convert a model."""
    settings, arguments = json.loads(sys.argv[1]), sys.argv[2:]
    converter = load_script(Path(settings["script"]))
    name_pre_tokenizer(converter, pre_tokenizer_name)
    sys.argv = [settings["script"], *arguments]
    converter.main()
    print(json.dumps(set_bos(Path(settings["out"]), settings["adds_bos"])))


if __name__ == "__main__":
    main()
