"""One folder on its way to one repository: checked here, checked there, and sent in one commit."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError

from hfkit.core.console import warn
from hfkit.core.errors import ConfigError, HfkitError, Problem, reason
from hfkit.core.files import write_text
from hfkit.core.hub_ids import repo_fault, revision_fault
from hfkit.core.hub_retry import status_of, with_retries
from hfkit.hub.cards.marks import CARD, noted
from hfkit.hub.homes import remember
from hfkit.hub.plan import Plan
from hfkit.hub.remote import Remote, base_problems, ref_problems, remote_problems

STALE = 412
"""The status of a commit whose parent is no longer the head of the branch."""


@dataclass(frozen=True)
class Pushed:
    """What came of a push: the commit in which everything is; `is_new` unless all of it was there already."""

    repo_id: str
    commit: str
    url: str
    is_new: bool


@dataclass
class Upload:
    """A folder, its repository, and how it is to be pushed; most fields are those of `hfkit.hub.push.push`.

    Attributes:
        base: where the base of an adapter is on the Hub, if the folder does not tell; the commit is None as long as it
            is still to be pushed.
        plan: what will be uploaded, once it has been checked.
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
    plan: Plan | None = None

    type = "model"
    card_class = ModelCard

    def now(self, api: HfApi, revision: str | None = None) -> Remote | None:
        """The repository as it is, asked for once."""
        return Remote.now(api, self.repo_id, revision or self.branch, self.type)

    def problems_here(self, token: str | None = None) -> list[Problem]:
        """What on this machine speaks against it.

        Args:
            token: of the user, which must be in no file.
        """
        if not self.folder.is_dir():
            return [Problem("DIR", str(self.folder), "no such folder")]
        names = [("repo_id", self.repo_id, repo_fault(self.repo_id))]
        names += [(f"--{key}", name, revision_fault(name)) for key, name in self.refs().items() if name != "main"]
        problems = [Problem(key, name, fault) for key, name, fault in names if fault]
        self.plan, found = self.planned(token=token)
        return problems + found

    def refs(self) -> dict[str, str]:
        """The names of branch and tag."""
        return {"revision": self.branch} | ({"tag": self.tag} if self.tag else {})

    def planned(self, **more) -> tuple[Plan, list[Problem]]:
        """The plan as it is now, and what speaks against it."""
        base = self.base and (self.base[0], self.base[1] or "0" * 40)
        return Plan.of(self.folder, self.repo_id, include=self.include, base=base, record=self.record, **more)

    def problems_there(self, api: HfApi) -> list[Problem]:
        """What on the Hub speaks against it.

        Raises:
            Unreachable: the Hub does not answer.
        """
        remote = with_retries(self.now, api)
        problems = []
        if remote:
            problems += self.problems_with(remote)
            problems += ref_problems(api, remote, self.plan, self.branch, self.tag)
        if self.plan.base and not (self.base and self.base[1] is None):
            problems += base_problems(api, self.plan)
        return problems + self.card_problems()

    def problems_with(self, remote: Remote) -> list[Problem]:
        """What in the repository speaks against it."""
        return remote_problems(remote, self.plan, self.private)

    def card_problems(self) -> list[Problem]:
        """What the Hub has to say against the card."""
        card = self.plan.files.get(CARD)
        try:
            if card is not None:
                with_retries(self.card_class(card.data.decode()).validate)
        except ValueError as error:
            return [Problem(CARD, "its front matter", " ".join(str(error).split()))]
        return []

    def run(self, api: HfApi) -> Pushed:
        """Does it.

        Raises:
            HfkitError: somebody else is pushing there too, or the Hub leaves files out.
            ConfigError: the repository is another one by now.
            Unreachable: the Hub does not answer any more; the repository is as it was.
        """
        remote = self.made(api)
        self.plan, problems = self.planned(card=remote.text(CARD))
        problems += self.problems_with(remote) + self.card_problems()
        if problems:
            raise ConfigError(problems, f"the push of {self.folder} to {self.repo_id}")
        url = f"{api.endpoint}/{'datasets/' if self.type == 'dataset' else ''}{self.repo_id}"
        is_new = not remote.has_all(self.plan)
        commit = self.committed(api, remote) if is_new else remote.commit
        if self.tag:
            at = {"revision": commit, "repo_type": self.type}
            with_retries(api.create_tag, self.repo_id, tag=self.tag, exist_ok=True, **at)
        if self.record is None:
            try:
                self.remember(commit)
            except OSError as error:
                warn(f"{self.folder} does not remember where it was pushed to: {reason(error)}")
        return Pushed(self.repo_id, commit, url, is_new)

    def remember(self, commit: str) -> None:
        """Leaves in the folder where it is on the Hub, and the card as it is there: by that a later edit is known."""
        remember(self.folder, self.repo_id, commit)
        if self.plan.record is not None:
            write_text(self.folder / CARD, noted(self.plan.files[CARD].data.decode()))

    def made(self, api: HfApi) -> Remote:
        """The branch to commit to; repository and branch are made if need be."""
        remote, kind = with_retries(self.now, api), {"repo_type": self.type, "exist_ok": True}
        if remote is None:
            private = self.private is not False
            with_retries(api.create_repo, self.repo_id, private=private, **kind)
            remote = with_retries(self.now, api)
            if remote is None or remote.private != private:
                raise HfkitError(f"{self.repo_id} was made by somebody else just now: push again to see what it is")
        if not remote.is_branch:
            with_retries(api.create_branch, self.repo_id, branch=self.branch, **kind)
            remote = with_retries(self.now, api)
        return remote

    def committed(self, api: HfApi, before: Remote) -> str:
        """Commits what is not there yet, at most once, however often it has to be asked for.

        An answer may be lost when the commit is made. The same commit asked for again is refused then, since the head
        of the branch is no longer its parent; what the head holds tells whether it is this one, or somebody else's.
        """
        changed = [file for file in self.plan.files.values() if not before.has(file)]
        additions = [CommitOperationAdd(file.path, file.content) for file in changed]
        stage = (self.plan.record or {}).get("stage")
        message = self.message or f"hfkit push: {stage or self.folder.resolve().name}"
        given = {"commit_message": message, "revision": self.branch, "parent_commit": before.commit}
        given["repo_type"] = self.type
        try:
            commit = with_retries(api.create_commit, self.repo_id, additions, **given).oid
        except HfHubHTTPError as error:
            if status_of(error) != STALE:
                raise
            commit = None
        there = with_retries(self.now, api, commit)
        if there is not None and there.has_all(self.plan):
            return there.commit
        if commit is None or there is None:
            raise HfkitError(f"somebody has just committed to {self.repo_id}: push again, on what is there now")
        ignored = [file.path for file in changed if not there.has(file)]
        raise HfkitError(f"{self.repo_id} leaves out {', '.join(ignored)}: look into its .gitignore")
