"""Saves each result at once, one JSON object a line, so that an interrupted evaluation can resume."""

from pathlib import Path

from hfkit.core.errors import HfkitError
from hfkit.core.json_lines import append_lines, read_appended


class ResultsFile:
    """A file of results by key; a last line that a killed process cut off is dropped.

    Args:
        path: of the file, with `{"key": ..., ...}` on each line; its folder is created with the first result.

    Raises:
        HfkitError: the file is not a file of results.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self.known = {line["key"]: line for line in read_appended(path)}
        except (ValueError, TypeError, KeyError) as error:
            raise HfkitError(f"{path} was not written by an evaluation: choose another --output_dir") from error

    def __contains__(self, key: str) -> bool:
        return key in self.known

    def __getitem__(self, key: str) -> dict:
        return self.known[key]

    def add(self, results: dict[str, dict]) -> None:
        """Append results by key, in one write."""
        lines = {key: {"key": key, **result} for key, result in results.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(self.path, lines.values())
        self.known |= lines
