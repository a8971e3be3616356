"""Check that a repository on the Hub can take a push. A push never deletes files of a repository."""

from huggingface_hub import HfApi, RepoCard, constants, get_session
from huggingface_hub.utils import hf_raise_for_status

from hfkit.core.errors import Problem
from hfkit.core.files import RECORD
from hfkit.core.hub_files import LOADED_FILES, matches
from hfkit.core.hub_retry import with_retries
from hfkit.hub.model_files import PICKLE_SUFFIXES
from hfkit.hub.repo import Repo
from hfkit.hub.upload_plan import UploadPlan
from hfkit.records.source import ADAPTER_CONFIG


def repo_problems(repo: Repo, plan: UploadPlan, private: bool | None) -> list[Problem]:
    """Return why a repository cannot take a model: its visibility, its present model, or its other files."""
    other = [Problem(repo.repo_id, found, "push to another repository") for found in mismatches(repo, plan)]
    return [*visibility_problems(repo, private), *other, *leftover_problems(repo, plan)]


def visibility_problems(repo: Repo, private: bool | None) -> list[Problem]:
    """Return the problem of a repository that is public and should be private, or the other way round."""
    if private in (None, repo.private):
        return []
    found, wanted = ("private", "public") if repo.private else ("public", "private")
    remedy = f"push to another repository, or change this one: hf repos settings {repo.repo_id} --{wanted}"
    return [Problem(repo.repo_id, f"is {found}, not {wanted}", remedy)]


def mismatches(repo: Repo, plan: UploadPlan) -> list[str]:
    """Return why the pushed model is not a new version of the one in the repository."""
    adapter, record = repo.read_json(ADAPTER_CONFIG), repo.read_json(RECORD)
    if adapter and plan.base is None:
        return ["holds an adapter, but this is not one"]
    if "config.json" in repo.files and plan.base is not None:
        return ["holds a full model, but this is an adapter"]
    base = adapter.get("base_model_name_or_path")
    if adapter and base != plan.base[0]:
        return [f"holds an adapter for {base}, but this one is for {plan.base[0]}"]
    if not record or not plan.record:
        return []
    old_stage, new_stage = record.get("stage"), plan.record.get("stage")
    if old_stage != new_stage:
        return [f"holds a result of the stage {old_stage}, but this is one of {new_stage}"]
    old, new = ({parent["role"]: parent for parent in one.get("lineage", [])} for one in (record, plan.record))
    changed = [role for role in old if role in new and not is_same_parent(old[role], new[role])]
    return [f"its {role} model is {old[role]['path']}, but here it is {new[role]['path']}" for role in changed]


def is_same_parent(one: dict, other: dict) -> bool:
    """Return whether two parents have the same weights, or are two revisions of one repository."""
    if one["weights_sha256"] and one["weights_sha256"] == other["weights_sha256"]:
        return True
    return bool(one["revision"] and other["revision"]) and one["path"] == other["path"]


def leftover_problems(repo: Repo, plan: UploadPlan) -> list[Problem]:
    """Return the files in the repository that loaders would read together with the pushed ones, and pickles."""
    left = [
        name
        for name in repo.files
        if name not in plan.files
        and (matches(name, LOADED_FILES) or ("/" not in name and name.endswith(PICKLE_SUFFIXES)))
    ]
    if not left:
        return []
    remedy = (
        "loaders would read them together with your files: push to another repository, or delete them: "
        f"hf repos delete-files {repo.repo_id} {' '.join(left)}"
    )
    return [Problem(repo.repo_id, f"holds {', '.join(left)}", remedy)]


def base_problems(api: HfApi, plan: UploadPlan) -> list[Problem]:
    """Return the problem of a base that is not on the Hub, or is not the one that the adapter was trained on."""
    repo_id, revision = plan.base
    base = with_retries(Repo.fetch, api, repo_id, revision)
    if base is None or not base.has_revision:
        remedy = "there is no such model or revision on the Hub, or you have no access to it"
        return [Problem(f"the base {repo_id}", revision, remedy)]
    trained_on = ((plan.record or {}).get("base") or {}).get("weights_sha256")
    weights = base.files.get("model.safetensors")
    if trained_on and weights and weights != trained_on:
        remedy = f"the adapter was trained on weights {trained_on[:12]}"
        return [Problem(f"the base {repo_id} at {revision}", f"weights {weights[:12]}", remedy)]
    return []


def ref_problems(api: HfApi, repo: Repo, plan: UploadPlan, branch: str, tag: str | None) -> list[Problem]:
    """Return the problems of a branch name that is a tag, and of a tag that exists on another commit."""
    if branch == "main" and tag is None:
        return []
    refs = with_retries(api.list_repo_refs, repo.repo_id, repo_type=repo.type)
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    problems = []
    if branch in tags:
        problems.append(Problem("--revision", branch, "is a tag: name a branch"))
    if tag in tags and not (tags[tag] == repo.commit and repo.has_all(plan)):
        remedy = f"{repo.repo_id} has this tag on another commit, and a push does not move tags: choose another tag"
        problems.append(Problem("--tag", tag, remedy))
    return problems


def validate_card(card: RepoCard) -> None:
    """Ask the Hub to validate the metadata of a card.

    `RepoCard.validate` asks huggingface.co before huggingface_hub 2.2, even if HF_ENDPOINT is another Hub.

    Raises:
        ValueError: the Hub rejects it.
    """
    body = {"repoType": card.repo_type, "content": str(card)}
    response = get_session().post(
        f"{constants.ENDPOINT}/api/validate-yaml", json=body, headers={"Accept": "text/plain"}
    )
    if response.status_code == 400:
        raise ValueError(response.text)
    hf_raise_for_status(response)
