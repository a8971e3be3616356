"""Fetches files of models from the Hub into its cache, with retries.

Without a connection only the cache is used, as with HF_HUB_OFFLINE.
"""

import os
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub import errors as hub_errors

from hfkit.core.errors import reason
from hfkit.core.hub_files import matches
from hfkit.core.hub_ids import HUB_ID, split_revision
from hfkit.core.hub_retry import (
    HubError,
    cached_if_unreachable,
    can_reach_hub,
    describe_error,
    is_offline,
    why_unreachable,
    with_retries,
)
from hfkit.core.links import require_own_files
from hfkit.core.missing_paths import no_such

CONFIGS = ("config.json", "adapter_config.json")
"""The files of which every model has one."""
NOT_FOUND = (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError, hub_errors.HFValidationError)


def call_if_online(call, *args, **kwargs):
    """Return what the call returns, with retries; None without a connection."""

    def attempt():
        try:
            with cached_if_unreachable():
                return call(*args, **kwargs)
        except Exception as error:
            if is_offline(error):
                return None
            raise

    return with_retries(attempt)


def fetch_file(repo_id: str, name: str, revision: str = "main", repo_type: str = "model") -> Path | None:
    """Return the cached path of a repository's file; None if the repository (offline: the cache) has no such file.

    Raises:
        HubError: the repository or revision does not exist, a name is invalid, or the Hub returns errors.
    """
    repo_id, revision = split_revision(repo_id, revision)
    try:
        file = call_if_online(hf_hub_download, repo_id, name, revision=revision, repo_type=repo_type)
    except NOT_FOUND as error:
        raise HubError(f"{repo_id} is neither a folder nor a {repo_type} on the Hub: {reason(error)}") from error
    except hub_errors.EntryNotFoundError:
        return None
    return Path(file) if file else None


def missing_folder_error(path: str, is_cached: bool = False) -> str | None:
    """Return why neither a folder nor the Hub has a model or dataset with this path; None if one of them may have it.

    A path in a folder that exists is looked up on the Hub only if the Hub answers at once.

    Args:
        is_cached: whether it is in a cache other than the Hub's.
    """
    name, revision = split_revision(path)
    if os.path.exists(path):
        return None
    if name.startswith(".") or not HUB_ID.match(name):
        return no_such("folder, and not a Hub id", path)
    parent = os.path.dirname(name)
    if not os.path.isdir(parent) or is_cached or not all(is_unknown(name, one, revision) for one in CONFIGS):
        return None
    return None if can_reach_hub(waits=(0.0,)) else no_such(f"folder in {parent}, and {why_unreachable()}", path)


def require_model(path: str, revision: str = "main") -> None:
    """Raise HubError for a model that is neither in a folder nor in the cache, while the Hub cannot be reached."""
    is_cached = os.path.isdir(path) or not all(is_unknown(path, name, revision) for name in CONFIGS)
    if not is_cached and not can_reach_hub():
        raise not_cached_error(path)


def not_cached_error(path: str) -> HubError:
    """Return the error for a model that is not in the Hub's cache, while the Hub cannot be reached."""
    remedy = f"{why_unreachable()}: check the path, or download it first with `hfkit pull`"
    return HubError(f"cannot load {path}: neither a folder nor a model in the Hub's cache, and {remedy}")


def is_unknown(repo_id: str, name: str, revision: str = "main") -> bool:
    """Return whether the cache neither has a file of a repository nor records that it does not exist."""
    repo_id, revision = split_revision(repo_id, revision)
    return try_to_load_from_cache(repo_id, name, revision=revision) is None


def local_folder(path: str, revision: str, patterns: tuple[str, ...]) -> str:
    """Return a folder with the files of a model that match the patterns: `path`, or the snapshot in the Hub's cache.

    Raises:
        HubError: there is no such model, or it cannot be fetched.
        HfkitError: a file in the folder is a link to a path outside it.
    """
    if os.path.isdir(path):
        require_own_files(Path(path))
        return path
    path, revision = split_revision(path, revision)
    try:
        info = call_if_online(HfApi().model_info, path, revision=revision)
        if info is None:
            return snapshot_download(path, revision=revision, local_files_only=True)
        names = [file.rfilename for file in info.siblings if matches(file.rfilename, patterns)]
        return str(fetch_snapshot(path, names, revision=revision, commit=info.sha))
    except NOT_FOUND as error:
        raise HubError(f"cannot load {path}: neither a folder nor a model on the Hub: {reason(error)}") from error
    except hub_errors.LocalEntryNotFoundError as error:  # offline, or without a network
        raise not_cached_error(path) from error
    except hub_errors.HfHubHTTPError as error:
        raise HubError(f"cannot load {path}: {describe_error(error)}") from error


def fetch_snapshot(repo_id: str, names: list[str], *, revision: str, commit: str, folder: Path | None = None) -> Path:
    """Fetch files of one commit of a repository into a folder or the cache, all or none; return the folder.

    `snapshot_download` alone returns an incomplete cache if the Hub does not answer.
    """

    def fetch() -> Path:
        fetched = Path(snapshot_download(repo_id, revision=revision, local_dir=folder, allow_patterns=names))
        if not all((fetched / name).is_file() for name in names) or (folder is None and fetched.name != commit):
            raise ConnectionError(f"only some files of {repo_id} were fetched")
        return fetched

    return with_retries(fetch)
