"""Runs commands of hfkit in forks of one process, so that hfkit is imported once.

`Commands` starts it and runs commands. The process reads a line of JSON for each: `argv`, `folder`, the file `output`
for what it prints, `seconds` after which it is killed with all that it started, and `signal`, `after` and `to_group`: a
signal that it gets `after` so many seconds, or its process group does, as Ctrl-C sends it.
"""

import gc
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import psutil
from forks import Worker
from signals import end_orphans

IMPORTS = ("hfkit.stages.sft", "hfkit.stages.reward", "hfkit.stages.ppo", "hfkit.commands.plan.main")
MEMORY = 8 << 30
"""Bytes that a command can allocate before an allocation fails, which protects the machine."""
GRACE = 2
"""Seconds within which all processes of an ended command must have ended."""


@dataclass(frozen=True)
class Ran:
    """A command that ended.

    Attributes:
        status: its exit status; negative: the signal that ended it.
        output: all that it printed.
        seconds: from its start, or from its signal, to its end.
        peak_bytes: of its memory.
        signaled: whether it was still running when its signal was due.
        orphans: command lines of its processes that outlived it.
    """

    status: int
    output: str
    seconds: float
    peak_bytes: int
    signaled: bool
    orphans: list[str]


class Commands:
    """The process; use it in a `with` statement."""

    def __enter__(self):
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import forked_commands as c; c.serve()"
        self.worker = Worker(code, env={**os.environ, "COLUMNS": "200"})
        return self

    def __exit__(self, *_):
        self.worker.close()

    def run(self, *argv: object, folder: Path, output: Path, seconds: float, **signaled) -> Ran:
        """Run a command to its end."""
        asked = {"argv": [*map(str, argv)], "folder": str(folder), "output": str(output), "seconds": seconds}
        self.worker.send(asked | signaled)
        ended = self.worker.receive()
        return Ran(output=output.read_text(encoding="utf-8", errors="replace"), **ended)


def be_command(argv: list[str], folder: str, output: str) -> None:
    """Be the command; never returns."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until hfkit handles it
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, stream), (2, stream)):
        os.dup2(source, standard)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    os.chdir(folder)
    status = 70
    try:
        sys.argv[1:] = argv
        status = import_module("hfkit.cli").main()  # like a shell command
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else 1 if exit.code else 0
    except BaseException:
        import_module("traceback").print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def watch(pid: int, seconds: float, number: int, after: float, to_group: bool) -> dict:
    """Send a command its signal, wait for its end; return the fields of `Ran` except its output."""
    started, signaled = time.monotonic(), False
    while not (ended := os.wait4(pid, os.WNOHANG))[0]:
        taken = time.monotonic() - started
        if number and not signaled and taken >= after:
            is_leader = os.getsid(pid) == pid  # it may not have started
            (os.killpg if to_group and is_leader else os.kill)(pid, number)
            signaled, started = True, time.monotonic()
        elif taken > seconds:
            os.killpg(pid, signal.SIGKILL)
            ended = os.wait4(pid, 0)
            break
        time.sleep(0.002)
    _, status, usage = ended
    taken = time.monotonic() - started
    return {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": taken,
        "peak_bytes": usage.ru_maxrss * 1024,
        "signaled": signaled,
        "orphans": end_orphans(partial(members, pid), GRACE),
    }


def members(session: int) -> list[psutil.Process]:
    """Return the processes of a session that are not zombies."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(one.pid) == session and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


def serve() -> None:
    """Run commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    for module in IMPORTS:
        import_module(module)
    gc.freeze()  # forks share the pages of the libraries, and do not collect garbage in them
    for line in sys.stdin:
        asked = {"signal": 0, "after": 0.0, "to_group": False, **json.loads(line)}
        pid = os.fork()
        if pid == 0:
            be_command(asked["argv"], asked["folder"], asked["output"])
        ended = watch(pid, asked["seconds"], asked["signal"], asked["after"], asked["to_group"])
        print(json.dumps(ended), file=answers, flush=True)
