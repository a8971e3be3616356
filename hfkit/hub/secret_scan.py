"""Find tokens and keys in files and rows before they are uploaded."""

import json
import re
from collections.abc import Iterable

from datasets import Dataset

from hfkit.core.errors import Problem
from hfkit.core.masking import SECRETS
from hfkit.hub.model_files import RepoFile

SECRETS_IN_BYTES = re.compile(SECRETS.pattern.encode())
REMEDY = "looks like a token or key: remove it, and revoke it where it was issued"
BINARY_SUFFIXES = (".safetensors", ".png")


def secrets_in_files(files: Iterable[RepoFile], token: str | None) -> list[Problem]:
    """Return the numbers of lines that hold a token or key, or the user's own `token`; the secret is not shown."""
    problems = []
    for file in files:
        start = None if file.path.endswith(BINARY_SUFFIXES) else find_secret(file.data, token)
        if start is not None:
            line = file.data.count(b"\n", 0, start) + 1
            problems.append(Problem(file.path, f"line {line}", REMEDY))
    return problems


def secrets_in_rows(name: str, rows: Dataset, token: str | None) -> list[Problem]:
    """Return the first batch of rows of a data file that holds a token or key; the secret is not shown."""
    for index, batch in enumerate(rows.iter(1000)):
        if find_secret(json.dumps(batch, default=str).encode(), token) is not None:
            first, count = 1000 * index + 1, len(next(iter(batch.values())))
            return [Problem(name, f"rows {first:,} to {first + count - 1:,}", REMEDY)]
    return []


def find_secret(data: bytes, token: str | None) -> int | None:
    """Return the index of the first byte of a secret, or None."""
    found = SECRETS_IN_BYTES.search(data) or (re.search(re.escape(token.encode()), data) if token else None)
    return found.start() if found else None
