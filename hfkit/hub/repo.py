"""The state of a repository on the Hub at one revision."""

from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from hfkit.core.files import read_json_mapping
from hfkit.core.hub_retry import with_retries
from hfkit.hub.model_files import RepoFile
from hfkit.hub.upload_plan import UploadPlan


@dataclass(frozen=True)
class Repo:
    """A repository at a revision.

    Attributes:
        commit: of the revision.
        files: content ids by path: the sha256 of a file in LFS or Xet, else git's oid.
        has_revision: False if the revision does not exist; the other fields are then those of `main`.
        type: "model" or "dataset".
    """

    repo_id: str
    commit: str
    private: bool
    files: dict[str, str]
    has_revision: bool = True
    type: str = "model"

    @classmethod
    def fetch(cls, api: HfApi, repo_id: str, revision: str = "main", type: str = "model") -> "Repo | None":
        """Return the current state, without retries; None if there is no such repository or no access to it."""
        try:
            info = api.repo_info(repo_id, revision=revision, repo_type=type, files_metadata=True)
        except RepositoryNotFoundError:
            return None
        except RevisionNotFoundError:
            main = cls.fetch(api, repo_id, type=type)
            return main and replace(main, has_revision=False)
        files = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings}
        return cls(repo_id, info.sha, bool(info.private), files, type=type)

    def has(self, file: RepoFile) -> bool:
        """Return whether the repository has a file with this content."""
        content_id = self.files.get(file.path)
        return content_id is not None and content_id == (file.sha256 if len(content_id) == 64 else file.git_oid)

    def has_all(self, plan: UploadPlan) -> bool:
        """Return whether the repository has all files of a plan."""
        return all(self.has(file) for file in plan.files.values())

    def read_text(self, name: str) -> str | None:
        """Return the text of a file, or None if the repository has no such file."""
        file = self._download(name)
        return file.read_text(encoding="utf-8") if file else None

    def read_json(self, name: str) -> dict:
        """Return the mapping in a JSON file; {} if there is no such file, or it cannot be read."""
        file = self._download(name)
        return (read_json_mapping(file) if file else None) or {}

    def _download(self, name: str) -> Path | None:
        if name not in self.files:
            return None
        options = {"revision": self.commit, "repo_type": self.type}
        return Path(with_retries(hf_hub_download, self.repo_id, name, **options))
