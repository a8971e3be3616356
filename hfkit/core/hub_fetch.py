"""Fetching from the Hub, with patience: one file, or those of a model that a loader wants, into the Hub's cache.

Where no connection comes about at all, what is in the cache has to do, as it does with HF_HUB_OFFLINE.
"""

import os
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hfkit.core.errors import reason
from hfkit.core.hub_ids import split_revision
from hfkit.core.hub_patterns import is_listed
from hfkit.core.hub_retry import HubError, describe_error, is_cut_off, with_retries

NOT_THERE = (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, HFValidationError)


def if_connected(call, *args, **kwargs):
    """What the call returns, made with patience; None where no connection comes about."""

    def once():
        try:
            return call(*args, **kwargs)
        except Exception as error:
            if is_cut_off(error):
                return None
            raise

    return with_retries(once)


def fetch_file(repo_id: str, name: str, revision: str = "main") -> Path | None:
    """A file of a model repository, in the cache; None where it has none, or offline none was fetched before.

    Raises:
        HubError: no such repository or revision, a name that cannot be one, or a Hub that answers with errors.
    """
    repo_id, revision = split_revision(repo_id, revision)
    try:
        file = if_connected(hf_hub_download, repo_id, name, revision=revision)
    except NOT_THERE as error:
        raise HubError(f"{repo_id} is no folder, and no model on the Hub: {reason(error)}") from error
    except EntryNotFoundError:
        return None
    return Path(file) if file else None


def local_folder(path: str, revision: str, patterns: tuple[str, ...]) -> str:
    """A folder with the files of a model that fit the patterns: its own, or the Hub's snapshot in the cache.

    Raises:
        HubError: there is no such model, or it cannot be fetched.
    """
    if os.path.isdir(path):
        return path
    path, revision = split_revision(path, revision)
    try:
        info = if_connected(HfApi().model_info, path, revision=revision)
        if info is None:
            return snapshot_download(path, revision=revision, local_files_only=True)
        names = [file.rfilename for file in info.siblings if is_listed(file.rfilename, patterns)]
        return str(snapshot(path, names, revision=revision, commit=info.sha))
    except NOT_THERE as error:
        raise HubError(f"cannot load {path}: no folder, and no model on the Hub: {reason(error)}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise HubError(f"cannot load {path}: {describe_error(error)}") from error


def snapshot(repo_id: str, names: list[str], *, revision: str, commit: str, folder: Path | None = None) -> Path:
    """Files of a repository in a folder, or in the cache: all of them, and of that commit.

    The client takes what it has for enough if the Hub does not tell it what there is.
    """
    options = {"revision": revision, "local_dir": folder, "allow_patterns": names}

    def whole() -> Path:
        found = Path(snapshot_download(repo_id, **options))
        if not all((found / name).is_file() for name in names) or (folder is None and found.name != commit):
            raise ConnectionError(f"only a part of {repo_id} has arrived")
        return found

    return with_retries(whole)
