"""Lists the shards of a checkpoint, which its index names and which must be files in the same folder."""

import re
from pathlib import Path

from hfkit.core.errors import HfkitError
from hfkit.core.files import load_json_file

SHARD_NAME = re.compile(r"[\w.-]+\.(safetensors|bin)")


def shards_of(index: Path) -> list[str]:
    """Return the sorted names of the files in an index of weights (`NAME.index.json`); they may be missing.

    Raises:
        HfkitError: the index cannot be read, or names a file of another folder or type, such as a pickle in a
            `model.safetensors.index.json`.
    """
    kind = index.name.removesuffix(".index.json").rpartition(".")[2]
    try:
        named = load_json_file(index)["weight_map"].values()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise HfkitError(f"{index} is not an index of weights: it has no valid weight_map") from error
    for name in named:
        if not isinstance(name, str) or not SHARD_NAME.fullmatch(name) or not name.endswith(f".{kind}"):
            raise HfkitError(f"{index} names {str(name)[:80]!r}: a shard is a .{kind} file in the same folder")
    return sorted({*named})


def require_own_shards(folder: Path, kinds: tuple[str, ...] = ("safetensors",)) -> None:
    """Raise HfkitError if an index of weights of these kinds in a folder names files outside it or of another type."""
    for index in folder.glob("*.index.json"):
        if index.name.endswith(tuple(f".{kind}.index.json" for kind in kinds)):
            shards_of(index)
