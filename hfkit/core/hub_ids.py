"""Names on the Hub: repositories, revisions, and both in one as `user/name@revision`."""

import os
import re

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hfkit.core.errors import HfkitError

HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
COMMIT = re.compile(r"[0-9a-f]{40}")
# What git allows in a branch or tag, without what nobody means: blanks, options, parents of folders.
REVISION = re.compile(r"(?!.*(\.\.|//|/\.))\w[\w.+/-]*(?<![./])(?<!\.lock)")


def split_revision(path: str, revision: str = "main") -> tuple[str, str]:
    """("user/name", "v1") of "user/name@v1"; any other path, and a folder, with its revision as it is.

    Raises:
        HfkitError: both name a revision, and not the same one; or it can be none.
    """
    name, at, given = path.rpartition("@")
    if at and HUB_ID.match(name) and not os.path.exists(path):
        if revision not in ("main", given):
            raise HfkitError(f"{path} names a revision, and {revision} is given beside it: keep one of the two")
        path, revision = name, given
    if not REVISION.fullmatch(revision):
        raise HfkitError(f"{revision!r} can be no branch, tag or commit of {path}")
    return path, revision


def repo_fault(repo_id: str) -> str | None:
    """What is wrong with the name of a repository to push to; None if nothing is."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        return f"no name for a repository, as USER/NAME: {error}"
    return None


def revision_fault(revision: str) -> str | None:
    """What is wrong with the name of a branch or tag; None if nothing is."""
    if COMMIT.fullmatch(revision) or revision.startswith("refs/"):
        return "stays as it is: name a branch"
    return None if REVISION.fullmatch(revision) else "no name for a branch or tag"
