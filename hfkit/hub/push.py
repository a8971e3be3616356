"""Push a model folder to a repository on the Hub, in one commit."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from hfkit import __version__
from hfkit.core.errors import MISSING, ConfigError, HfkitError, Problem
from hfkit.core.hub_retry import HubUnreachable, describe_error, with_retries
from hfkit.hub.names import repo_id_error
from hfkit.hub.upload import Pushed, Upload
from hfkit.records.source import ADAPTER_CONFIG, read_json

LOGIN = "not logged in: run `hf auth login`, or set HF_TOKEN"


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
) -> Pushed:
    """Push a folder to a model repository, in one commit; the repository is created if it does not exist.

    A push is validated first; every problem is reported before any file is uploaded.

    Args:
        folder: of a run that is done, or any folder of Transformers, PEFT or a tokenizer.
        repo_id: USER/NAME, or NAME in the user's own namespace.
        private: visibility; by default that of the repository, and a new one is private.
        revision: branch; created if it does not exist.
        tag: for the commit.
        message: of the commit.
        with_base: repository to push the base of an adapter to, if the base is only a local folder.
        include: patterns of files that are left out by default, such as `checkpoint-500/*`.
        record: of a run in progress.

    Raises:
        ConfigError: with every problem; nothing was uploaded.
        HfkitError: the Hub cannot be reached, or refuses; each repository is unchanged or complete.
    """
    options = {"branch": revision, "tag": tag, "message": message, "include": tuple(include), "record": record}
    uploads, problems = make_uploads(folder, repo_id, private, with_base, **options)
    return run_uploads(uploads, problems, f"the push of {folder} to {repo_id}")


def run_uploads(uploads: list[Upload], problems: list[Problem], what: str) -> Pushed:
    """Validate uploads, run them in order, and return the result of the last; those before it are its bases.

    Args:
        problems: known already.
        what: is pushed, for messages.

    Raises:
        ConfigError, HfkitError: as `push`.
    """
    token, api = get_token(), HfApi(library_name="hfkit", library_version=__version__)
    problems = list(problems)
    try:
        if token and not problems:
            add_namespace(api, uploads)
        problems += [problem for upload in uploads for problem in upload.local_problems(token)]
        if token is None:
            problems.append(Problem("login", MISSING, LOGIN))
        elif all(upload.plan and not repo_id_error(upload.repo_id) for upload in uploads):
            try:
                problems += [problem for upload in uploads for problem in upload.remote_problems(api)]
            except HubUnreachable:
                if not problems:  # else report what is known
                    raise
        if problems:
            raise ConfigError(problems, what)
        for upload in uploads[:-1]:
            pushed = upload.run(api)
            uploads[-1].base = (pushed.repo_id, pushed.commit)
        return uploads[-1].run(api)
    except HfHubHTTPError as error:
        raise HfkitError(f"the Hub refuses the push to {uploads[-1].repo_id}: {describe_error(error)}") from error


def make_uploads(
    folder: str | Path, repo_id: str, private: bool | None, with_base: str | None = None, **options
) -> tuple[list[Upload], list[Problem]]:
    """Return the uploads of a push, the base before its adapter, and the problem with `with_base`, if any."""
    upload = Upload(Path(folder), repo_id, private, **options)
    if with_base is None:
        return [upload], []
    base = find_local_base(upload.folder)
    if isinstance(base, Problem):
        return [upload], [base]
    upload.base = (with_base, None)
    return [Upload(base, with_base, private), upload], []


def find_local_base(folder: Path) -> Path | Problem:
    """Return the folder of an adapter's base, or the problem if there is none to push."""
    adapter = read_json(str(folder), ADAPTER_CONFIG) if folder.is_dir() else None
    if adapter is None:
        return Problem("--with_base", str(folder), "is not an adapter, and has no base: leave out --with_base")
    base = adapter.get("base_model_name_or_path") or ""
    if not Path(base).is_dir():
        return Problem("--with_base", base, "the base is not a local folder: leave out --with_base")
    return Path(base)


def add_namespace(api: HfApi, uploads: list[Upload]) -> None:
    """Prefix repository ids that have no namespace with the user's own."""
    if any("/" not in upload.repo_id for upload in uploads):
        user = with_retries(api.whoami)["name"]
        for upload in uploads:
            upload.repo_id = upload.repo_id if "/" in upload.repo_id else f"{user}/{upload.repo_id}"
        if len(uploads) > 1:
            uploads[-1].base = (uploads[0].repo_id, None)
