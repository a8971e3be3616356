"""Pushes a data set to a repository on the Hub, in one commit."""

from pathlib import Path

from hfkit.hub.data_upload import DataUpload
from hfkit.hub.push import send


def push_data(
    source: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str = "main",
    tag: str | None = None,
    message: str | None = None,
):
    """Pushes a data set to a repository of its own, which is made if need be, in one commit.

    Args:
        source: a folder with its files, or a data card, by name or as a .md file.
        repo_id, private, revision, tag, message: as for `hfkit.hub.push.push`.

    Returns, Raises: as `hfkit.hub.push.push`.
    """
    upload = DataUpload.of(str(source), repo_id, private, revision, tag, message)
    return send([upload], [], f"the push of {source} to {repo_id}")
