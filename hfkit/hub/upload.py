"""Upload one folder to one repository: validate it locally and against the Hub, then send it in one commit."""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError

from hfkit.core.console import warn
from hfkit.core.errors import ConfigError, HfkitError, Problem, reason
from hfkit.core.files import RECORD, write_text
from hfkit.core.hub_retry import status_of, with_retries
from hfkit.core.missing_paths import no_such
from hfkit.hub.cards.hand_edits import README, with_edit_hash
from hfkit.hub.locations import save_location
from hfkit.hub.model_files import RepoFile, select_files
from hfkit.hub.names import repo_id_error, revision_error
from hfkit.hub.published_record import adapter_config_for_hub, record_for_hub
from hfkit.hub.repo import Repo
from hfkit.hub.repo_checks import base_problems, ref_problems, repo_problems, validate_card
from hfkit.hub.secret_scan import secrets_in_files
from hfkit.hub.upload_plan import (
    UploadPlan,
    base_to_name,
    make_card,
    missing_weights,
    record_problems,
    unreadable_configs,
)
from hfkit.records.record import read_record
from hfkit.records.source import ADAPTER_CONFIG, read_json

PRECONDITION_FAILED = 412
"""HTTP status of a commit whose parent is no longer the head of the branch."""


@dataclass(frozen=True)
class Pushed:
    """The result of a push: the commit with all files; `is_new` is False if the repository had all of them before."""

    repo_id: str
    commit: str
    url: str
    is_new: bool


@dataclass
class Upload:
    """A folder, its repository, and the options of the push, which are those of `hfkit.hub.push.push`.

    Attributes:
        base: where the base of an adapter is on the Hub, if the folder does not say; its commit is None until the base
            is pushed.
        plan: what will be uploaded; set by `local_problems`.
    """

    folder: Path
    repo_id: str
    private: bool | None = None
    branch: str = "main"
    tag: str | None = None
    message: str | None = None
    include: tuple[str, ...] = ()
    record: dict | None = None
    base: tuple[str, str | None] | None = None
    plan: UploadPlan | None = None

    type = "model"
    card_class = ModelCard

    def local_problems(self, token: str | None = None) -> list[Problem]:
        """Make the plan, and return every problem that can be found without the Hub; `token` as in `make_plan`."""
        if not self.folder.is_dir():
            return [Problem("DIR", str(self.folder), no_such("folder", str(self.folder)))]
        refs = {"--revision": self.branch} | ({"--tag": self.tag} if self.tag else {})
        errors = [("repo_id", self.repo_id, repo_id_error(self.repo_id))]
        errors += [(key, name, revision_error(name)) for key, name in refs.items() if name != "main"]
        self.plan, found = self.make_plan(token=token)
        return [Problem(key, name, error) for key, name, error in errors if error] + found

    def make_plan(self, card: str | None = None, token: str | None = None) -> tuple[UploadPlan, list[Problem]]:
        """Return the plan of the folder as it is now, and the problems with it.

        Args:
            card: the README.md that is in the repository now.
            token: of the user, which no file may contain.
        """
        base = self.base and (self.base[0], self.base[1] or "0" * 40)
        files, left_out, problems = select_files(self.folder, self.include)
        record = self.record or read_record(self.folder)
        if self.record is None:
            problems += record_problems(self.folder, record)
        problems += missing_weights(self.folder, files) + unreadable_configs(self.folder, files)
        if ADAPTER_CONFIG in files and not problems:
            base, found = base_to_name(self.folder, record, base)
            problems += found
            if base:
                config = adapter_config_for_hub(read_json(str(self.folder), ADAPTER_CONFIG), base)
                files[ADAPTER_CONFIG] = RepoFile(ADAPTER_CONFIG, config)
        if record is not None and not problems:
            record = record_for_hub(record, base)
            files[RECORD] = RepoFile(RECORD, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
            try:
                files[README] = RepoFile(README, make_card(self.folder, record, self.repo_id, card).encode())
            except HfkitError as error:
                problems.append(Problem(README, "cannot be updated", str(error)))
        problems += secrets_in_files(files.values(), token)
        return UploadPlan(files, left_out, record, base), problems

    def remote_problems(self, api: HfApi) -> list[Problem]:
        """Return every reason why the Hub would reject the plan.

        Raises:
            HubUnreachable: the Hub does not answer.
        """
        repo = self.fetch_repo(api)
        problems = []
        if repo:
            problems += self.problems_with(repo)
            problems += ref_problems(api, repo, self.plan, self.branch, self.tag)
        if self.plan.base and not (self.base and self.base[1] is None):
            problems += base_problems(api, self.plan)
        return problems + self.card_problems()

    def problems_with(self, repo: Repo) -> list[Problem]:
        """Return why the repository cannot take this upload."""
        return repo_problems(repo, self.plan, self.private)

    def card_problems(self) -> list[Problem]:
        """Return why the Hub rejects the metadata of the card."""
        card = self.plan.files.get(README)
        try:
            if card is not None:
                with_retries(validate_card, self.card_class(card.data.decode()))
        except ValueError as error:
            return [Problem(README, "its metadata", " ".join(str(error).split()))]
        return []

    def run(self, api: HfApi) -> Pushed:
        """Create repository and branch if needed, commit the files, and set the tag.

        Raises:
            HfkitError: somebody else pushes to the repository at the same time, or the Hub ignores files.
            ConfigError: the repository has changed since it was checked, and can no longer take the push.
            HubUnreachable: the Hub stops answering; the repository is unchanged.
        """
        repo = self.ensure_branch(api)
        self.plan, problems = self.make_plan(card=repo.read_text(README))
        problems += self.problems_with(repo) + self.card_problems()
        if problems:
            raise ConfigError(problems, f"the push of {self.folder} to {self.repo_id}")
        url = f"{api.endpoint}/{'datasets/' if self.type == 'dataset' else ''}{self.repo_id}"
        is_new = not repo.has_all(self.plan)
        commit = self.commit(api, repo) if is_new else repo.commit
        if self.tag:
            options = {"revision": commit, "repo_type": self.type, "exist_ok": True}
            with_retries(api.create_tag, self.repo_id, tag=self.tag, **options)
        if self.record is None:
            try:
                self.update_folder(commit)
            except OSError as error:
                warn(f"pushed, but the repository could not be recorded in {self.folder}: {reason(error)}")
        return Pushed(self.repo_id, commit, url, is_new)

    def update_folder(self, commit: str) -> None:
        """Write the location on the Hub and the pushed card into the folder; the card's hash reveals later edits."""
        save_location(self.folder, self.repo_id, commit)
        if self.plan.record is not None:
            write_text(self.folder / README, with_edit_hash(self.plan.files[README].data.decode()))

    def fetch_repo(self, api: HfApi, revision: str | None = None) -> Repo | None:
        """Return the repository as it is now; None if there is none, or no access to it."""
        return with_retries(Repo.fetch, api, self.repo_id, revision or self.branch, self.type)

    def ensure_branch(self, api: HfApi) -> Repo:
        """Return the branch to commit to; create repository and branch if they do not exist."""
        repo, options = self.fetch_repo(api), {"repo_type": self.type, "exist_ok": True}
        if repo is None:
            private = self.private is not False
            with_retries(api.create_repo, self.repo_id, private=private, **options)
            repo = self.fetch_repo(api)
            if repo is None or repo.private != private:
                raise HfkitError(f"somebody else has just created {self.repo_id}: push again to compare with it")
        if not repo.has_revision:
            with_retries(api.create_branch, self.repo_id, branch=self.branch, **options)
            repo = self.fetch_repo(api)
        return repo

    def commit(self, api: HfApi, before: Repo) -> str:
        """Commit the files that the repository does not have, exactly once, and return the commit.

        If the response to a commit is lost, the retry fails because the branch has a new head. The content of that
        head shows whether it is this commit or somebody else's.
        """
        changed = [file for file in self.plan.files.values() if not before.has(file)]
        additions = [CommitOperationAdd(file.path, file.content) for file in changed]
        what = (self.plan.record or {}).get("stage") or self.folder.resolve().name
        options = {"revision": self.branch, "parent_commit": before.commit, "repo_type": self.type}
        options["commit_message"] = self.message or f"hfkit push: {what}"
        try:
            commit = with_retries(api.create_commit, self.repo_id, additions, **options).oid
        except HfHubHTTPError as error:
            if status_of(error) != PRECONDITION_FAILED:
                raise
            commit = None
        head = self.fetch_repo(api, commit)
        if head is not None and head.has_all(self.plan):
            return head.commit
        if commit is None or head is None:
            raise HfkitError(f"somebody else has just committed to {self.repo_id}: push again")
        ignored = [file.path for file in changed if not head.has(file)]
        raise HfkitError(f"{self.repo_id} ignores {', '.join(ignored)}: check its .gitignore")
