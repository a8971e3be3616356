"""Pushes a folder to a model repository on the Hub, in one commit."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from hfkit import __version__
from hfkit.core.errors import MISSING, ConfigError, HfkitError, Problem
from hfkit.core.hub_retry import Unreachable, describe_error, with_retries
from hfkit.hub.upload import Upload
from hfkit.records.source import ADAPTER_CONFIG, read_json

LOGIN = "nobody is logged in: `hf auth login`, or set HF_TOKEN"


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str = "main",
    tag: str | None = None,
    message: str | None = None,
    with_base: str | None = None,
    include: tuple[str, ...] = (),
    record: dict | None = None,
):
    """Pushes a folder to a model repository, which is made if need be, in one commit.

    Args:
        folder: of a run that is done, or any other of Transformers, PEFT or a tokenizer.
        repo_id: USER/NAME, or NAME in the user's own namespace.
        private: who may read it; by default that stays as it is, and a new repository is private.
        revision: a branch, which is made if need be.
        tag: for the commit.
        message: of the commit.
        with_base: the repository to push an adapter's base to, if that is on this machine alone.
        include: patterns of files that are else left out, as `checkpoint-500/*`.
        record: of the run, if it still goes on.

    Returns:
        Pushed: repo_id, commit, url, and whether there was anything to send.

    Raises:
        ConfigError: everything that speaks against it; nothing was sent.
        HfkitError: the Hub cannot be reached, or refuses; each repository is as it was, or complete.
    """
    given = {"branch": revision, "tag": tag, "message": message, "include": tuple(include), "record": record}
    uploads, problems = uploads_of(folder, repo_id, private, with_base, **given)
    return send(uploads, problems, f"the push of {folder} to {repo_id}")


def send(uploads: list, problems: list[Problem], what: str):
    """Checks uploads and makes them, one after the other; the last is what was asked for, those before it its bases.

    Args:
        problems: that are known already.
        what: is being pushed, for the messages.

    Returns, Raises: as `push`.
    """
    token, api = get_token(), HfApi(library_name="hfkit", library_version=__version__)
    problems = list(problems)
    try:
        if token and not problems:
            name_in_full(api, uploads)
        problems += [problem for upload in uploads for problem in upload.problems_here(token)]
        if token is None:
            problems.append(Problem("login", MISSING, LOGIN))
        elif all(upload.plan for upload in uploads):
            problems += problems_there(api, uploads, known=problems)
        if problems:
            raise ConfigError(problems, what)
        for upload in uploads[:-1]:
            pushed = upload.run(api)
            uploads[-1].base = (pushed.repo_id, pushed.commit)
        return uploads[-1].run(api)
    except HfHubHTTPError as error:
        raise HfkitError(f"the Hub refuses the push to {uploads[-1].repo_id}: {describe_error(error)}") from error


def uploads_of(folder: str | Path, repo_id: str, private: bool | None, with_base: str | None = None, **given) -> tuple:
    """The uploads of a push, the base before its adapter, and what is wrong with `with_base`."""
    upload = Upload(Path(folder), repo_id, private, **given)
    if with_base is None:
        return [upload], []
    base = base_folder(upload.folder)
    if isinstance(base, Problem):
        return [upload], [base]
    upload.base = (with_base, None)
    return [Upload(base, with_base, private), upload], []


def base_folder(folder: Path) -> Path | Problem:
    """The folder of an adapter's base, or why there is none to push."""
    adapter = read_json(str(folder), ADAPTER_CONFIG) if folder.is_dir() else None
    if adapter is None:
        return Problem("--with_base", str(folder), "is no adapter, and has no base: leave it out")
    base = adapter.get("base_model_name_or_path") or ""
    if not Path(base).is_dir():
        return Problem("--with_base", base, "the base is no folder here: leave it out, and what is wrong is told")
    return Path(base)


def name_in_full(api, uploads: list) -> None:
    """Puts the user's namespace before names that have none."""
    if any("/" not in upload.repo_id for upload in uploads):
        user = with_retries(api.whoami)["name"]
        for upload in uploads:
            upload.repo_id = upload.repo_id if "/" in upload.repo_id else f"{user}/{upload.repo_id}"
        if len(uploads) > 1:
            uploads[-1].base = (uploads[0].repo_id, None)


def problems_there(api, uploads: list, known: list[Problem]) -> list[Problem]:
    """What on the Hub speaks against it; a Hub that is out of reach is no reason to keep back what is known."""
    try:
        return [problem for upload in uploads for problem in upload.problems_there(api)]
    except Unreachable:
        if known:
            return []
        raise
