"""Pull a model from the Hub into a folder that works offline."""

import glob
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from hfkit import __version__
from hfkit.core.console import say
from hfkit.core.errors import ConfigError, HfkitError, Problem
from hfkit.core.explain_errors import explain_errors
from hfkit.core.files import RECORD, require_free_folder, write_json
from hfkit.core.hub_fetch import fetch_snapshot
from hfkit.core.hub_files import DOCUMENTS, LOADED_FILES, matches
from hfkit.core.hub_ids import split_revision
from hfkit.core.hub_retry import describe_error, with_retries
from hfkit.core.locks import lock_folder
from hfkit.hub.locations import is_local, save_location
from hfkit.hub.model_files import PICKLE_SUFFIXES, RepoFile
from hfkit.hub.names import repo_id_error
from hfkit.hub.repo import Repo
from hfkit.records.source import ADAPTER_CONFIG, read_json

BASE_FOLDER = "base"


def pull(repo: str, out: str | Path, revision: str = "main", base: str | None = None) -> Path:
    """Fetch a model, adapter or tokenizer into a folder and return the folder.

    Args:
        repo: Hub id, which may end in `@revision`.
        out: a new or empty folder; it is written completely or not at all. A folder with the same files is not changed.
        revision: branch, tag or commit.
        base: Hub id of an adapter's base, instead of the one that its config names.

    Raises:
        HfkitError: there is no such model, or no safetensors in it; `out` is not empty; the Hub cannot be reached (what
            was fetched is kept, and the next call resumes).
    """
    out = Path(out).absolute()
    api = HfApi(library_name="hfkit", library_version=__version__)
    repo_id, revision = split_revision(repo, revision)
    try:
        found = find_repo(api, repo_id, revision)
        if out.is_dir() and is_pulled(api, found, out, base):
            say(f"pull: {repo_id} at {found.commit} is in {out} already")
            return out
        require_free_folder(out)
        staging = out.parent / f".{out.name}.{found.commit[:12]}.pulling"
        with lock_folder(staging, "pulling"), explain_errors(staging):
            fetch_files(found, staging)
            fetch_base(api, staging, out, base)
            for folder in (staging, staging / BASE_FOLDER):
                shutil.rmtree(folder / ".cache", ignore_errors=True)  # huggingface_hub's metadata
            require_free_folder(out)
            os.replace(staging, out)
        remove_earlier(out)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise HfkitError(f"cannot fetch {repo_id}: {describe_error(error)}") from error
    say(f"pull: {repo_id} at {found.commit} is in {out}")
    return out


def remove_earlier(out: Path) -> None:
    """Remove what interrupted pulls of other commits into `out` have fetched, unless one is running."""
    for path in out.parent.glob(f".{glob.escape(out.name)}.*.pulling"):
        if re.fullmatch(r"[0-9a-f]{12}", path.name.removeprefix(f".{out.name}.").removesuffix(".pulling")):
            with suppress(HfkitError), lock_folder(path, "pulling"):
                shutil.rmtree(path, ignore_errors=True)


def find_repo(api: HfApi, repo_id: str, revision: str) -> Repo:
    """Return a repository at a revision, if it can be pulled.

    Raises:
        HfkitError: there is no such repository or revision, or it holds no safetensors and no tokenizer.
    """
    invalid = repo_id_error(repo_id)
    if invalid:
        raise ConfigError([Problem("REPO_ID", repo_id, invalid)], "the command line")
    repo = with_retries(Repo.fetch, api, repo_id, revision)
    if repo is None or not repo.has_revision:
        what = repo_id if repo is None else f"{repo_id} at {revision}"
        raise HfkitError(f"there is no model {what} on the Hub, or you have no access to it: `hf auth login`")
    names = [name for name in repo.files if matches(name, LOADED_FILES)]
    pickles = [name for name in repo.files if name.endswith(PICKLE_SUFFIXES)]
    if not any(name.endswith(".safetensors") for name in names) and (pickles or "tokenizer_config.json" not in names):
        found = f"pickles, which can run code when loaded ({', '.join(pickles[:3])})" if pickles else "no weights"
        raise HfkitError(f"{repo_id} holds {found}: only safetensors are fetched")
    return repo


def names_to_fetch(repo: Repo) -> list[str]:
    """Return the names of the files that loaders and readers need."""
    return [name for name in repo.files if matches(name, LOADED_FILES + DOCUMENTS)]


def is_pulled(api: HfApi, repo: Repo, out: Path, base: str | None) -> bool:
    """Return whether a folder has every file of a repository that is fetched, and those of an adapter's base."""
    changed = (RECORD, ADAPTER_CONFIG)  # see `save_location` and `fetch_base`
    files = {name: out / name for name in names_to_fetch(repo)}
    whole = all(path.is_file() and (name in changed or repo.has(RepoFile(name, path))) for name, path in files.items())
    if not whole or ADAPTER_CONFIG not in files:
        return whole
    named = read_json(str(out), ADAPTER_CONFIG) or {}
    base_repo = find_base(api, repo.read_json(ADAPTER_CONFIG), base)
    return named.get("base_model_name_or_path") == str(out / BASE_FOLDER) and is_pulled(
        api, base_repo, out / BASE_FOLDER, None
    )


def fetch_files(repo: Repo, folder: Path) -> None:
    """Fetch the files that loaders and readers need into a folder, and record their origin there.

    Raises:
        HfkitError: the content of a file does not have the hash that the Hub states.
    """
    names = names_to_fetch(repo)
    fetch_snapshot(repo.repo_id, names, revision=repo.commit, commit=repo.commit, folder=folder)
    for name in names:
        if not repo.has(RepoFile(name, folder / name)):
            (folder / name).unlink()
            raise HfkitError(f"{name} of {repo.repo_id} arrived damaged and was removed: run the command again")
    save_location(folder, repo.repo_id, repo.commit)


def fetch_base(api: HfApi, staging: Path, out: Path, base: str | None) -> None:
    """Fetch the base of an adapter into a folder within the adapter's, and name it in the adapter's config.

    Raises:
        HfkitError: there is no such base on the Hub, or it is an adapter itself.
    """
    adapter = read_json(str(staging), ADAPTER_CONFIG)
    if adapter is None:
        return
    fetch_files(find_base(api, adapter, base), staging / BASE_FOLDER)
    location = {"base_model_name_or_path": str(out / BASE_FOLDER), "revision": None}
    write_json(staging / ADAPTER_CONFIG, adapter | location)


def find_base(api: HfApi, adapter: dict, base: str | None) -> Repo:
    """Return the repository of an adapter's base: the one that its config names, unless `base` names another.

    Raises:
        HfkitError: there is no such base on the Hub, or it is an adapter itself.
    """
    named = adapter.get("base_model_name_or_path") or ""
    repo_id, revision = split_revision(base) if base else (named, adapter.get("revision") or "main")
    if is_local(repo_id):
        raise HfkitError(f"the adapter's base {repo_id!r} is not a model on the Hub: name it with --base USER/NAME")
    repo = find_repo(api, repo_id, revision)
    if ADAPTER_CONFIG in repo.files:
        raise HfkitError(f"the adapter's base {repo_id} is an adapter: name the full model with --base USER/NAME")
    return repo
