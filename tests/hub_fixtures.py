"""Fixtures: a local Hub server, and its users, each a process with its own HF_HOME and token."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import python_path
from forks import Worker
from hub_server import HubServer

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ran:
    """The result of a command."""

    status: int
    stdout: str
    stderr: str
    answer: object


class User:
    """A process of hfkit for a user of the Hub, logged in with HF_TOKEN, with an empty cache.

    Several commands run in one process, since each start takes seconds.

    Attributes:
        home: HF_HOME.
        token: of the user; None without a login.
        env: the environment of its commands.
        outputs: everything that the commands printed.
    """

    def __init__(self, endpoint: str, home: Path, token: str | None, cwd: Path | None = None):
        self.home, self.token, self.outputs = home, token, []
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        env = kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost", "HF_HUB_ETAG_TIMEOUT": "30"}
        env |= {"PYTHONPATH": python_path(ROOT, ROOT / "tests"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        env |= {"HF_TOKEN": token} if token else {}
        self.env = env
        self.worker = Worker("from hub_server.client import serve; serve()", env=env, cwd=cwd or home)

    def hfkit(self, *argv: object) -> Ran:
        """Run a command of hfkit and return its result."""
        return self._do("hfkit", *map(str, argv))

    def python(self, code: str) -> object:
        """Run Python code and return the value of its variable `answer`."""
        ran = self._do("python", code)
        assert ran.status == 0, ran.stderr
        return ran.answer

    def start(self, *argv: object) -> None:
        """Start a command of hfkit without waiting for it."""
        self.worker.send(["hfkit", *map(str, argv)])

    def finish(self) -> Ran:
        """Wait for the started command and return its result."""
        ran = Ran(**self.worker.receive())
        self.outputs += [ran.stdout, ran.stderr]
        return ran

    def _do(self, what: str, *words: str) -> Ran:
        self.worker.send([what, *words])
        return self.finish()

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.worker.kill()


@pytest.fixture(scope="module")
def hub_server():
    """An empty Hub on 127.0.0.1, for the tests of a file."""
    server = HubServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def user_of(hub_server, tmp_path_factory):
    """user_of("ann") -> a process for the user ann, with its own HF_HOME; user_of(None) is not logged in."""
    users = []

    def start(name: str | None, **options) -> User:
        token = hub_server.store.token(name) if name else None
        users.append(User(hub_server.endpoint, tmp_path_factory.mktemp(f"home-{name}"), token, **options))
        return users[-1]

    yield start
    for user in users:
        user.kill()


@pytest.fixture
def healed(hub_server):
    """The faults of the server; they end with the test."""
    yield hub_server.faults
    hub_server.faults.heal()


def copies(to: Path, *folders: Path) -> list[Path]:
    """Copy runs; their records and adapter configs name the copies, not the originals."""
    made = []
    for folder in folders:
        made.append(Path(shutil.copytree(folder, to / folder.name)))
        for name in ("hfkit.json", "adapter_config.json"):
            file = made[-1] / name
            if file.is_file():
                file.write_text(file.read_text().replace(str(folders[0].parent), str(to)))
    return made
