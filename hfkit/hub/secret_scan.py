"""Find tokens and keys in files and rows before they are uploaded."""

import json
import re
from collections.abc import Iterable

from datasets import Dataset

from hfkit.core.errors import Problem
from hfkit.hub.model_files import RepoFile

# The start of a word, also after a JSON escape such as \n, whose letter would otherwise count as the word's first.
START = rb"(?:\b|(?<=\\[bfnrt])|(?<=\\u[0-9a-fA-F]{4}))"
SECRETS = re.compile(
    START + rb"(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,}"
    rb"|glpat-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}\b|xox[abprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35})"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
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
    found = SECRETS.search(data) or (re.search(re.escape(token.encode()), data) if token else None)
    return found.start() if found else None
