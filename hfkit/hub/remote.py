"""A repository as it is on the Hub now, and what in it speaks against a push. Nothing in it is ever deleted."""

from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from hfkit.core.errors import Problem
from hfkit.core.files import RECORD, read_json_mapping
from hfkit.core.hub_patterns import LOADED_FILES, is_listed
from hfkit.core.hub_retry import with_retries
from hfkit.hub.files import PICKLES, File
from hfkit.hub.plan import Plan
from hfkit.records.source import ADAPTER_CONFIG


@dataclass(frozen=True)
class Remote:
    """A branch of a repository.

    Attributes:
        commit: its head.
        files: by path, the names of their contents: sha256 of a large file, else git's.
        is_branch: whether the branch is there; if not, this is what it will start from.
        type: model or dataset.
    """

    repo_id: str
    commit: str
    private: bool
    files: dict[str, str]
    is_branch: bool = True
    type: str = "model"

    @classmethod
    def now(cls, api: HfApi, repo_id: str, revision: str = "main", type: str = "model") -> "Remote | None":
        """What is there, asked for once; None where there is no such repository, or none that the user may see."""
        try:
            info = api.repo_info(repo_id, revision=revision, repo_type=type, files_metadata=True)
        except RepositoryNotFoundError:
            return None
        except RevisionNotFoundError:
            start = cls.now(api, repo_id, type=type)
            return start and replace(start, is_branch=False)
        files = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings}
        return cls(repo_id, info.sha, bool(info.private), files, type=type)

    def has(self, file: File) -> bool:
        """Whether a file is there as it is to be."""
        there = self.files.get(file.path)
        return there is not None and there == (file.sha256 if len(there) == 64 else file.git_oid)

    def has_all(self, plan: Plan) -> bool:
        """Whether everything is there already."""
        return all(self.has(file) for file in plan.files.values())

    def read(self, name: str) -> Path | None:
        """A file of it, fetched."""
        if name not in self.files:
            return None
        place = {"revision": self.commit, "repo_type": self.type}
        return Path(with_retries(hf_hub_download, self.repo_id, name, **place))

    def text(self, name: str) -> str | None:
        """What stands in a file of it."""
        file = self.read(name)
        return file.read_text(encoding="utf-8") if file else None

    def json(self, name: str) -> dict:
        """What stands in a JSON file of it; {} where there is none that can be read."""
        file = self.read(name)
        return (read_json_mapping(file) if file else None) or {}


def remote_problems(remote: Remote, plan: Plan, private: bool | None) -> list[Problem]:
    """Why a repository is not to be pushed to: who may read it, what it is, what in it would be loaded with the new."""
    return [
        *visibility_problems(remote, private),
        *(Problem(remote.repo_id, seen, remedy) for seen, remedy in strangers(remote, plan)),
        *leftover_problems(remote, plan),
    ]


def visibility_problems(remote: Remote, private: bool | None) -> list[Problem]:
    """A repository that is public and should be private, or the other way round."""
    if private in (None, remote.private):
        return []
    seen, wanted = ("private", "public") if remote.private else ("public", "private")
    remedy = f"push to another repository, or change this one: hf repos settings {remote.repo_id} --{wanted}"
    return [Problem(remote.repo_id, f"is {seen}, not {wanted}", remedy)]


def strangers(remote: Remote, plan: Plan) -> list[tuple[str, str]]:
    """What the repository holds that this is no new version of, with the remedy."""
    remedy = "push to another repository"
    adapter, record = remote.json(ADAPTER_CONFIG), remote.json(RECORD)
    if adapter and plan.base is None:
        return [("holds an adapter, and this is none", remedy)]
    if "config.json" in remote.files and plan.base is not None:
        return [("holds a full model, and this is an adapter", remedy)]
    there = adapter.get("base_model_name_or_path")
    if adapter and there != plan.base[0]:
        return [(f"holds an adapter on {there}, and this one is on {plan.base[0]}", remedy)]
    if not record or not plan.record:
        return []
    stages = record.get("stage"), plan.record.get("stage")
    if stages[0] != stages[1]:
        return [(f"holds the {stages[0]} stage, and this is {stages[1]}", remedy)]
    was, now = ({parent["role"]: parent for parent in one.get("lineage", [])} for one in (record, plan.record))
    other = [role for role in was if role in now and not is_same(was[role], now[role])]
    return [(f"its {role} was {was[role]['path']}, and here it is {now[role]['path']}", remedy) for role in other]


def is_same(one: dict, other: dict) -> bool:
    """Whether two parents have the same weights, or are two states of one repository."""
    if one["weights_sha256"] and one["weights_sha256"] == other["weights_sha256"]:
        return True
    return bool(one["revision"] and other["revision"]) and one["path"] == other["path"]


def leftover_problems(remote: Remote, plan: Plan) -> list[Problem]:
    """Files in the repository that loaders would take for part of what is pushed, and pickles."""
    left = [
        name
        for name in remote.files
        if name not in plan.files and (is_listed(name, LOADED_FILES) or ("/" not in name and name.endswith(PICKLES)))
    ]
    if not left:
        return []
    remedy = (
        "they would be loaded with what you push, which deletes nothing: push to another repository, or delete them: "
        f"hf repos delete-files {remote.repo_id} {' '.join(left)}"
    )
    return [Problem(remote.repo_id, f"holds {', '.join(left)}", remedy)]


def base_problems(api: HfApi, plan: Plan) -> list[Problem]:
    """A base that is not where an adapter says, or not the one that it was trained on."""
    repo_id, revision = plan.base
    base = with_retries(Remote.now, api, repo_id, revision)
    if base is None or not base.is_branch:
        remedy = "there is no such model or revision on the Hub, or you may not see it"
        return [Problem(f"the base {repo_id}", revision, remedy)]
    trained_on = ((plan.record or {}).get("base") or {}).get("weights_sha256")
    there = base.files.get("model.safetensors")
    if trained_on and there and there != trained_on:
        seen = f"weights {there[:12]}"
        return [Problem(f"the base {repo_id} at {revision}", seen, f"the adapter was trained on {trained_on[:12]}")]
    return []


def ref_problems(api: HfApi, remote: Remote, plan: Plan, branch: str, tag: str | None) -> list[Problem]:
    """A branch that is a tag, and a tag that is somewhere else already."""
    if branch == "main" and tag is None:
        return []
    refs = with_retries(api.list_repo_refs, remote.repo_id, repo_type=remote.type)
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    problems = []
    if branch in tags:
        problems.append(Problem("--revision", branch, "is a tag, and stays where it is: name a branch"))
    if tag in tags and not (tags[tag] == remote.commit and remote.has_all(plan)):
        problems.append(
            Problem("--tag", tag, f"{remote.repo_id} has it already, and it stays where it is: take another")
        )
    return problems
