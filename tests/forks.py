"""Starts processes in one second instead of five: forks of servers that have imported the slow libraries.

The first server imports neither hfkit nor modules that read the Hub's variables: a fork imports them in its
environment. Its fork, the second server, also imports Hugging Face's libraries, for forks in the environment of the
tests. The third one, a fork of the second, also imports hfkit and DeepSpeed, for the launches of `processes.py`.
"""

import atexit
import fcntl
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

ROOT = Path(__file__).parents[1]
FEW, LIBRARIES, HFKIT = range(3)
"""Levels of servers."""
MODULES = (
    (
        "torch._inductor.compile_fx",
        "torch.distributed.checkpoint",
        "scipy.optimize",
        "pyarrow.dataset",
        "pandas",
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "rich.progress",
        "yaml",
        "torch.nn.attention.varlen",
    ),
    (
        "transformers.trainer",
        "transformers.models.llama.modeling_llama",
        "trl.trainer.sft_trainer",
        "trl.trainer.reward_trainer",
        "trl.trainer.dpo_trainer",
        "trl.trainer.grpo_trainer",
        "trl.trainer.rloo_trainer",
        "trl.experimental.ppo",
        "peft",
        "sacrebleu",
        "requests",
        "bitsandbytes",
        "prompt_toolkit",
        "uvicorn",
        "fastapi",
    ),
    (
        "hfkit.rlhf.trainer",
        "hfkit.rlhf.policy_evaluation",
        "hfkit.stages.ppo",
        "hfkit.stages.sft",
        "hfkit.stages.pretrain",
        "hfkit.stages.reward",
        "hfkit.data.forms",
        "hfkit.training.arguments",
        "torch.distributed.checkpoint",
        "deepspeed",
    ),
)
"""What the server of each level imports, after what those below it have imported."""
NOT_BELOW = ("", "huggingface_hub", "hfkit")
"""A module that no server below a level imports."""
if os.environ.get("HFKIT_TEST_GPU") == "1":
    MODULES = ((), (), ())  # one of them initializes CUDA, which does not survive a fork
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
STANDARD_PATH = sys.path[1:]
"""Where the first server finds modules, apart from the folder of this file."""
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


class Server:
    """A process that has imported the modules of `MODULES` up to a level, and forks itself on request.

    Processes that are forks of this one share it. It ends when all of them have closed their ends of its socket.

    Attributes:
        env: its variables when it imported the modules.
    """

    def __init__(self, level: int):
        self.level, self.env = level, dict(os.environ)
        self.questions, theirs = socket.socketpair()
        self.answers, self.turn = self.questions.makefile("r"), tempfile.TemporaryFile()
        with theirs:
            if level > FEW:
                start = {"level": level, "argv": [], "cwd": str(ROOT), "env": self.env}
                server(level - 1).ask(start, [theirs.fileno(), 2, 2])
                return
            own = ("PYTHONPATH", "PYTHONHASHSEED")  # hashes of strings differ from those of this process
            env = {name: value for name, value in os.environ.items() if name not in own}
            command = [sys.executable, __file__, str(theirs.fileno())]
            given = {"stdin": subprocess.DEVNULL, "pass_fds": [theirs.fileno()], "cwd": ROOT}
            self.process = subprocess.Popen(command, env=env, **given)

    def ask(self, question: dict, streams: list[int]) -> None:
        """Send a question: its length with the streams, then its text."""
        text = json.dumps(question).encode()
        socket.send_fds(self.questions, [len(text).to_bytes(4, "big")], streams)
        self.questions.sendall(text)

    def request(self, question: dict, streams: list[int]) -> int | None:
        """Send a question and return its answer, while other processes wait for their turn."""
        fcntl.lockf(self.turn, fcntl.LOCK_EX)
        try:
            self.ask(question, streams)
            return json.loads(self.answers.readline())
        finally:
            fcntl.lockf(self.turn, fcntl.LOCK_UN)


@cache
def server(level: int) -> Server:
    """Start the server of a level once, and those below it, without waiting for their imports."""
    return Server(level)


def read_by_libraries(env: dict) -> dict:
    """Return the variables that a library may read when it is imported."""
    return {name: value for name, value in env.items() if not name.startswith(UNREAD)}


class Fork:
    """A process that runs code like `python -c CODE ARGV...`, in its own session.

    Args:
        cwd: its folder, by default that of this process.
        env: all its variables, by default those of this process.
        streams: files, or their numbers, for its standard input, output and error; by default the null device, and
            this process's output and error.
        level: of the server that it is a fork of. The modules of a level above `FEW` have been imported in the
            environment of this process: a fork in another one is a fork of the first server.
    """

    def __init__(
        self,
        code: str,
        *argv: object,
        cwd: Path | None = None,
        env: dict | None = None,
        streams=None,
        level: int = LIBRARIES,
    ):
        where = {"cwd": str(cwd or Path.cwd()), "env": {**(env or os.environ)}}
        question = {"code": code, "argv": [*map(str, argv)], **where}
        is_fresh = level > FEW and read_by_libraries(server(level).env) != read_by_libraries(where["env"])
        self.server = server(FEW if is_fresh else level)
        self.returncode = None
        with open(os.devnull) as nothing:
            streams = [stream if isinstance(stream, int) else stream.fileno() for stream in streams or (nothing, 1, 2)]
            self.pid = self.server.request(question, streams)

    def poll(self) -> int | None:
        """Return the exit status, as `subprocess.Popen` does; None while it runs."""
        if self.returncode is None:
            self.returncode = self.server.request({"ended": self.pid}, [])
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


def serve(level: int, asked: socket.socket) -> NoReturn:
    """Be the server of a level: answer requests until the socket is closed."""
    load(level)
    while True:
        length, streams, *_ = socket.recv_fds(asked, 4, 3)
        if not length:
            os._exit(0)
        question = json.loads(asked.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
        if "ended" in question:
            pid, status = os.waitpid(question["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                asked.close()
                become(question, streams)
                if "level" in question:
                    serve(question["level"], socket.socket(fileno=os.dup(0)))
                run_to_the_end(question["code"])
            for stream in streams:
                os.close(stream)
        if "level" not in question:
            asked.sendall(json.dumps(answer).encode() + b"\n")


def load(level: int) -> None:
    """Import the modules of a level."""
    gc.disable()  # as in conftest.py
    for module in MODULES[level]:
        with suppress(ModuleNotFoundError):  # TRL has no PPO since 1.13
            import_module(module)
    assert sys.modules.keys().isdisjoint(NOT_BELOW[level + 1 :])
    gc.freeze()
    gc.enable()


def run_to_the_end(code: str) -> NoReturn:
    """Run code like `python -c`, and end without the half second in which Python would delete all modules."""
    status, is_interrupted = 1, False
    sys.modules["__main__"] = main = ModuleType("__main__")
    try:
        exec(compile(code, "<string>", "exec"), vars(main))
        status = 0
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
    except BaseException as error:
        is_interrupted = isinstance(error, KeyboardInterrupt)
        sys.excepthook(type(error), error, error.__traceback__)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if is_interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


def become(question: dict, streams: list[int]) -> None:
    """Take over the streams, folder, variables and arguments of a process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    take_over(streams)
    os.chdir(question["cwd"])
    os.environ.clear()
    os.environ.update({name: str(value) for name, value in question["env"].items()})
    sys.argv = ["-c", *question["argv"]]
    sys.path[:] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *STANDARD_PATH]


def take_over(streams: list[int]) -> None:
    """Make files the standard input, output and error."""
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))
    sys.stderr.reconfigure(line_buffering=True)


if __name__ == "__main__":
    serve(FEW, socket.socket(fileno=int(sys.argv[1])))
