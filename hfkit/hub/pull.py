"""Fetches a model from the Hub into a folder that works offline."""

import os
import shutil
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from hfkit import __version__
from hfkit.core.console import say
from hfkit.core.errors import ConfigError, HfkitError, Problem
from hfkit.core.files import require_free_folder, write_json
from hfkit.core.hub_fetch import snapshot
from hfkit.core.hub_ids import repo_fault, split_revision
from hfkit.core.hub_patterns import DOCUMENTS, LOADED_FILES, is_listed
from hfkit.core.hub_retry import describe_error, with_retries
from hfkit.core.locks import explain_errors, lock_folder
from hfkit.hub.files import PICKLES, File
from hfkit.hub.homes import is_local, remember
from hfkit.hub.remote import Remote
from hfkit.records.source import ADAPTER_CONFIG, read_json

BASE_FOLDER = "base"


def pull(repo: str, out: str | Path, revision: str = "main", base: str | None = None) -> Path:
    """Fetches a repository into a folder and returns it.

    Args:
        repo: Hub id, perhaps with `@revision`.
        out: a folder that is not there yet, or empty; it is written whole or not at all.
        revision: branch, tag or commit.
        base: Hub id of an adapter's base, in place of what its config says.

    Raises:
        HfkitError: there is no such model, or none in safetensors; something in the way at `out`; the Hub is out of
            reach (what was fetched so far is kept, and the next call goes on from there).
    """
    out = Path(out).absolute()
    api = HfApi(library_name="hfkit", library_version=__version__)
    repo, revision = split_revision(repo, revision)
    try:
        remote = there(api, repo, revision)
        require_free_folder(out)
        staging = out.parent / f".{out.name}.{remote.commit[:12]}.pulling"
        with lock_folder(staging, "pulling"), explain_errors(staging):
            fetch(remote, staging)
            stand_on_base(api, staging, out, base)
            for folder in (staging, staging / BASE_FOLDER):
                shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's own notes
            require_free_folder(out)
            os.replace(staging, out)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise HfkitError(f"cannot fetch {repo}: {describe_error(error)}") from error
    say(f"pull: {repo} at {remote.commit} is in {out}")
    return out


def there(api, repo: str, revision: str):
    """A repository at a revision.

    Raises:
        HfkitError: there is none, or it is nothing that is fetched.
    """
    fault = repo_fault(repo)
    if fault:
        raise ConfigError([Problem("REPO_ID", repo, fault)], "the command line")
    remote = with_retries(Remote.now, api, repo, revision)
    if remote is None or not remote.is_branch:
        what = repo if remote is None else f"{repo} at {revision}"
        raise HfkitError(f"there is no model {what} on the Hub, or you may not see it: `hf auth login`")
    names = [name for name in remote.files if is_listed(name, LOADED_FILES)]
    pickles = [name for name in remote.files if name.endswith(PICKLES)]
    if not any(name.endswith(".safetensors") for name in names) and (pickles or "tokenizer_config.json" not in names):
        seen = f"pickles, which run code when they are loaded ({', '.join(pickles[:3])})" if pickles else "no weights"
        raise HfkitError(f"{repo} holds {seen}: only safetensors are fetched")
    return remote


def fetch(remote, folder: Path) -> None:
    """Puts the files that loaders and readers want into a folder, and notes there where they are from.

    Raises:
        HfkitError: one is not what the Hub says that it is.
    """
    names = [name for name in remote.files if is_listed(name, LOADED_FILES + DOCUMENTS)]
    snapshot(remote.repo_id, names, revision=remote.commit, commit=remote.commit, folder=folder)
    for name in names:
        if not remote.has(File(name, folder / name)):
            (folder / name).unlink()
            raise HfkitError(f"{name} of {remote.repo_id} did not arrive whole: start again, and it is fetched anew")
    remember(folder, remote.repo_id, remote.commit)


def stand_on_base(api, staging: Path, out: Path, base: str | None) -> None:
    """Fetches the base of an adapter into a folder within its own, and has the adapter stand on it.

    Raises:
        HfkitError: there is no such base on the Hub, or it is an adapter.
    """
    adapter = read_json(str(staging), ADAPTER_CONFIG)
    if adapter is None:
        return
    named = adapter.get("base_model_name_or_path") or ""
    repo, revision = split_revision(base) if base else (named, adapter.get("revision") or "main")
    if is_local(repo):
        raise HfkitError(f"the base that it names, {repo!r}, is no model on the Hub: name it with --base USER/NAME")
    remote = there(api, repo, revision)
    if ADAPTER_CONFIG in remote.files:
        raise HfkitError(f"its base {repo} is an adapter: name the full model with --base USER/NAME")
    fetch(remote, staging / BASE_FOLDER)
    place = {"base_model_name_or_path": str(out / BASE_FOLDER), "revision": None}
    write_json(staging / ADAPTER_CONFIG, adapter | place)
