"""The content of a Hub: users with tokens, repositories, commits of files, LFS objects."""

import hashlib
import itertools
import secrets
import threading
from dataclasses import dataclass, field
from datetime import datetime, timezone

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gz", ".parquet", ".png", ".zip")
LFS_SIZE = 1 << 20
GITATTRIBUTES = b"".join(b"*%s filter=lfs diff=lfs merge=lfs -text\n" % suffix.encode() for suffix in LFS_SUFFIXES)


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, code: str | None = None, **body):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class Blob:
    """The content of a file; `sha256` is its id as an LFS object, None for a file in git."""

    content: bytes
    sha256: str | None = None

    @property
    def oid(self) -> str:
        """Git's id; for an LFS file, the id of its pointer."""
        content = self.content
        if self.sha256:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n"
            content = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A commit with all files of the repository."""

    oid: str
    parent: str | None
    files: dict[str, Blob]
    title: str
    message: str
    author: str
    date: str


@dataclass
class Repo:
    """A repository; `objects` are the uploaded LFS objects by sha256, committed or not."""

    type: str
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _count = itertools.count()

    def at(self, revision: str) -> Commit:
        """Return the commit of a branch, tag, commit id or prefix of one."""
        oid = self.branches.get(revision) or self.tags.get(revision)
        if oid is None and len(revision) >= 7:
            oid = next((oid for oid in self.commits if oid.startswith(revision)), None)
        if oid is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Return contents by path."""
        return {path: blob.content for path, blob in self.at(revision).files.items()}

    def history(self, revision: str = "main") -> list[Commit]:
        """Return the commits, newest first."""
        commit, commits = self.at(revision), []
        while commit:
            commits.append(commit)
            commit = self.commits.get(commit.parent)
        return commits

    def commit(self, branch: str, files: dict[str, Blob], title: str, message: str, author: str) -> Commit:
        """Commit these files, which replace all others, to a branch."""
        parent, date = self.branches.get(branch), datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        oid = hashlib.sha1(f"{self.id} {parent} {title} {next(self._count)}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, files, title, message, author, date)
        self.branches[branch] = oid
        return self.commits[oid]


class Store:
    """Users and repositories."""

    def __init__(self):
        self.users: dict[str, str] = {}  # by token
        self.orgs: dict[str, set[str]] = {}
        self.repos: dict[tuple[str, str], Repo] = {}

    def token(self, user: str) -> str:
        """Return the token of a user; it is created at the first call."""
        known = {name: token for token, name in self.users.items()}
        if user not in known:
            known[user] = "hf_" + "".join(secrets.choice("abcdefghijkLMNOPQRSTUVWXYZ") for _ in range(34))
            self.users[known[user]] = user
        return known[user]

    def add(self, repo_id: str, files: dict[str, bytes] | None = None, private: bool = False, type: str = "model"):
        """Create a repository with an initial commit, and a second one if files are given."""
        repo = self.repos[type, repo_id] = Repo(type, repo_id, private)
        start = {".gitattributes": Blob(GITATTRIBUTES)}
        repo.commit("main", start, "initial commit", "", "system")
        if files:
            blobs = {path: self.blob(path, content) for path, content in files.items()}
            repo.objects |= {blob.sha256: blob.content for blob in blobs.values() if blob.sha256}
            repo.commit("main", start | blobs, "Add files", "", repo_id.split("/")[0])
        return repo

    def repo(self, repo_id: str, type: str = "model") -> Repo:
        """Return an existing repository."""
        return self.repos[type, repo_id]

    @staticmethod
    def blob(path: str, content: bytes) -> Blob:
        """Return a file as the Hub stores it."""
        return Blob(content, hashlib.sha256(content).hexdigest() if is_lfs(path, len(content)) else None)

    def may_write(self, user: str | None, repo_id: str) -> bool:
        """Return whether a repository belongs to a user or to one of their organizations."""
        owner = repo_id.split("/")[0]
        return user is not None and (user == owner or user in self.orgs.get(owner, ()))


def is_lfs(path: str, size: int) -> bool:
    """Return whether a file is stored in LFS rather than git."""
    return path.endswith(LFS_SUFFIXES) or size > LFS_SIZE
