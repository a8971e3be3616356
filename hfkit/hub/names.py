"""Validates the names of a repository and a branch to push to."""

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hfkit.core.hub_ids import COMMIT, REVISION


def repo_id_error(repo_id: str) -> str | None:
    """Return what is wrong with the name of a repository to push to, or None."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        return f"not a repository name such as USER/NAME: {error}"
    return None


def revision_error(revision: str) -> str | None:
    """Return what is wrong with the name of a branch to push to, or None."""
    if COMMIT.fullmatch(revision) or revision.startswith("refs/"):
        return "a commit or a ref, which cannot be pushed to: name a branch"
    return None if REVISION.fullmatch(revision) else "not a valid name of a branch or tag"
