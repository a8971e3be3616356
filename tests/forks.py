"""Starts processes in one second instead of five: forks of servers that have imported the slow libraries.

The first server imports neither hfkit nor modules that read the Hub's variables: a fork imports them in its
environment. Its fork, the second server, also imports Hugging Face's libraries, for forks in the environment of the
tests.
"""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TextIO

LIBRARIES = (
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "trl.trainer.sft_trainer",
    "trl.trainer.reward_trainer",
    "peft",
    "bitsandbytes",
    "matplotlib.figure",
    "rich.progress",
    "prompt_toolkit",
    "uvicorn",
    "fastapi",
)
"""What the second server imports."""
UNREAD = (
    "PYTHONPATH",
    "COLUMNS",
    "LINES",
    "TERM",
    "PROMPT_TOOLKIT_",
    "HFKIT_",
    "PYTEST_",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
)
"""Beginnings of the names of variables that no library reads when it is imported."""
PRELOAD = (
    "torch._inductor.compile_fx",
    "torch.distributed.checkpoint",
    "scipy.optimize",
    "pyarrow.dataset",
    "pandas",
    "matplotlib.backends.backend_agg",
)
if os.environ.get("HFKIT_TEST_GPU") == "1":
    PRELOAD = LIBRARIES = ()  # one of them initializes CUDA, which does not survive a fork
PAUSE = 0.01
"""Seconds between two checks whether a process has ended."""
WITHOUT_HFKIT = """
import sys

class NoHfkit:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hfkit":
            raise ImportError("hfkit is not installed here")

sys.meta_path.insert(0, NoHfkit())
"""


@cache
def server() -> tuple[socket.socket, TextIO, subprocess.Popen]:
    """Start the first server of this process once; return a socket for requests, whose closing ends it, and answers."""
    ours, theirs = socket.socketpair()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, __file__, str(theirs.fileno())]
    with theirs:
        started = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env, stdin=subprocess.DEVNULL)
    return ours, ours.makefile("r"), started


@cache
def server_with_libraries() -> tuple[socket.socket, TextIO, dict]:
    """Start the second server of this process once; return a socket for requests, the answers, and its environment."""
    ours, theirs = socket.socketpair()
    env, folder = dict(os.environ), str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); import forks; forks.serve_with_libraries()"
    with theirs:
        Fork(code, env=env, streams=[theirs, 2, 2], has_libraries=False)
    return ours, ours.makefile("r"), env


def read_by_libraries(env: dict) -> dict:
    """Return the variables that a library may read when it is imported."""
    return {name: value for name, value in env.items() if not name.startswith(UNREAD)}


def request(server: tuple, question: dict, streams: list[int]) -> int | None:
    """Send a question to a server, streams first, and return its answer."""
    questions, answers, _ = server
    socket.send_fds(questions, [b"?"], streams)
    questions.sendall(json.dumps(question).encode() + b"\n")
    return json.loads(answers.readline())


class Fork:
    """A process that runs code like `python -c CODE ARGV...`, in its own session.

    Args:
        cwd: its folder, by default that of this process.
        env: all its variables, by default those of this process.
        streams: files, or their numbers, for its standard input, output and error; by default the null device, and
            this process's output and error.
        has_libraries: whether Hugging Face's libraries may be imported already.
    """

    def __init__(
        self,
        code: str,
        *argv: object,
        cwd: Path | None = None,
        env: dict | None = None,
        streams=None,
        has_libraries: bool = True,
    ):
        where = {"cwd": str(cwd or Path.cwd()), "env": {**(env or os.environ)}}
        question = {"code": code, "argv": [*map(str, argv)], **where}
        self.server = server()
        if has_libraries and LIBRARIES:
            second = server_with_libraries()
            if read_by_libraries(second[-1]) == read_by_libraries(where["env"]):
                self.server = second
        self.returncode = None
        with open(os.devnull) as nothing:
            streams = [stream if isinstance(stream, int) else stream.fileno() for stream in streams or (nothing, 1, 2)]
            self.pid = request(self.server, question, streams)

    def poll(self) -> int | None:
        """Return the exit status, as `subprocess.Popen` does; None while it runs."""
        if self.returncode is None:
            self.returncode = request(self.server, {"ended": self.pid}, [])
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Wait for its end, at most `timeout` seconds, and return the exit status."""
        latest = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < latest, f"it still runs after {timeout} seconds"
            time.sleep(PAUSE)
        return self.returncode

    def kill(self) -> None:
        """Kill it with SIGKILL, if it runs, and wait for its end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


class Worker(Fork):
    """A fork whose code answers each line of JSON on its standard input with one on its standard output."""

    def __init__(self, code: str, **options):
        ours, theirs = socket.socketpair()
        self.questions, self.answers = ours.makefile("w"), ours.makefile("r")
        with ours, theirs:
            super().__init__(code, streams=[theirs, theirs, 2], **options)

    def send(self, question: object) -> None:
        """Send a question."""
        self.questions.write(json.dumps(question) + "\n")
        self.questions.flush()

    def receive(self) -> dict:
        """Wait for the answer to a question that was sent."""
        line = self.answers.readline()
        assert line, "the process is gone"
        return json.loads(line)

    def close(self) -> None:
        """End its input, and wait until it has ended."""
        self.questions.close()
        self.answers.close()
        self.wait()


def run(code: str, *argv: object, **options) -> subprocess.CompletedProcess:
    """Run code in a `Fork` to its end, and return its exit status and output."""
    with ExitStack() as stack:
        nothing = stack.enter_context(open(os.devnull))
        written = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
        status = Fork(code, *argv, streams=[nothing, *written], **options).wait()
        for file in written:
            file.seek(0)
        return subprocess.CompletedProcess(code, status, *(file.read() for file in written))


def run_without_hfkit(script: str, *arguments: str, cwd: Path) -> None:
    """Run a script that cannot import hfkit, to show that it opens a standard folder. It must succeed."""
    ran = run(WITHOUT_HFKIT + script + '\nassert "hfkit" not in sys.modules\n', *arguments, cwd=cwd)
    assert ran.returncode == 0, ran.stderr


def serve(asked: socket.socket) -> dict:
    """Answer requests until the socket is closed; return only in a fork, with its code."""
    lines = asked.makefile("r")
    while True:
        mark, streams, *_ = socket.recv_fds(asked, 1, 3)
        if not mark:
            os._exit(0)
        question = json.loads(lines.readline())
        if "ended" in question:
            pid, status = os.waitpid(question["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                lines.close()
                asked.close()
                become(question, streams)
                return question
            for stream in streams:
                os.close(stream)
        asked.sendall(json.dumps(answer).encode() + b"\n")


def serve_with_libraries() -> None:
    """Be the second server, whose requests come on the standard input."""
    for module in LIBRARIES:
        import_module(module)
    assert "hfkit" not in sys.modules
    gc.freeze()
    exec(compile(serve(socket.socket(fileno=0))["code"], "<string>", "exec"), {"__name__": "__main__"})


def become(question: dict, streams: list[int]) -> None:
    """Take over the streams, folder, environment and arguments of a process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))
    sys.stderr.reconfigure(line_buffering=True)
    os.chdir(question["cwd"])
    os.environ.clear()
    os.environ.update({name: str(value) for name, value in question["env"].items()})
    sys.argv = ["-c", *question["argv"]]
    sys.path[0:1] = ["", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]


if __name__ == "__main__":
    for module in PRELOAD:
        import_module(module)
    assert sys.modules.keys().isdisjoint({"hfkit", "huggingface_hub", "transformers"})
    gc.freeze()
    exec(compile(serve(socket.socket(fileno=int(sys.argv[1])))["code"], "<string>", "exec"), {"__name__": "__main__"})
