"""Validates names on the Hub: repositories, revisions, and both as `user/name@revision`; imports no heavy library."""

import os
import re

from hfkit.core.errors import HfkitError

HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
COMMIT = re.compile(r"[0-9a-f]{40}")
# Branches and tags that git allows, without spaces, leading dashes and `..`.
REVISION = re.compile(r"(?!.*(\.\.|//|/\.))\w[\w.+/-]*(?<![./])(?<!\.lock)")


def split_revision(path: str, revision: str = "main") -> tuple[str, str]:
    """Return ("user/name", "v1") for "user/name@v1"; for a folder or any other path, (path, revision).

    Raises:
        HfkitError: path and `revision` name different revisions, or the revision is not a valid name.
    """
    name, at, given = path.rpartition("@")
    if at and HUB_ID.match(name) and not os.path.exists(path):
        if revision not in ("main", given):
            raise HfkitError(f"{path} names a revision, but `revision` is {revision}: keep one of the two")
        path, revision = name, given
    if not REVISION.fullmatch(revision):
        raise HfkitError(f"{path}: {revision!r} is not a valid branch, tag or commit")
    return path, revision
