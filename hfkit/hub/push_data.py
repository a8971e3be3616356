"""Push a dataset to a repository on the Hub, in one commit."""

from pathlib import Path

from hfkit.hub.dataset_upload import DatasetUpload
from hfkit.hub.push import run_uploads
from hfkit.hub.upload import Pushed


def push_data(
    source: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str = "main",
    tag: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Push a dataset to a dataset repository, in one commit; the repository is created if it does not exist.

    Args:
        source: a folder with data files, or a data card, by name or as a .md file.
        repo_id, private, revision, tag, message: as in `hfkit.hub.push.push`.

    Raises:
        ConfigError, HfkitError: as `hfkit.hub.push.push`.
    """
    upload = DatasetUpload.of(str(source), repo_id, private, revision, tag, message)
    return run_uploads([upload], [], f"the push of {source} to {repo_id}")
