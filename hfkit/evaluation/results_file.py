"""Saves each result at once, one JSON object a line, so that an interrupted evaluation can resume."""

import json
from pathlib import Path

from hfkit.core.errors import HfkitError
from hfkit.core.files import write_text
from hfkit.core.limits import load_json


class ResultsFile:
    """A file of results by key; a last line that a killed process cut off is dropped.

    Args:
        path: of the file, with `{"key": ..., ...}` on each line; its folder is created with the first result.

    Raises:
        HfkitError: the file is not a file of results.
    """

    def __init__(self, path: Path):
        self.path, self.known = path, {}
        content = path.read_bytes() if path.is_file() else b""
        try:
            whole = content[: content.rfind(b"\n") + 1].decode()  # the last line may end within a character
            # not splitlines, which also splits at characters that JSON does not escape
            self.known = {line["key"]: line for line in map(load_json, whole.split("\n")[:-1])}
        except (ValueError, TypeError, KeyError) as error:
            raise HfkitError(f"{path} was not written by an evaluation: choose another --output_dir") from error
        if len(whole.encode()) < len(content):
            write_text(path, whole)

    def __contains__(self, key: str) -> bool:
        return key in self.known

    def __getitem__(self, key: str) -> dict:
        return self.known[key]

    def add(self, results: dict[str, dict]) -> None:
        """Append results by key, in one write."""
        lines = {key: {"key": key, **result} for key, result in results.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values()))
        self.known |= lines
