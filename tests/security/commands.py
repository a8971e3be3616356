"""A process that runs commands of hfkit, each in a fork of itself: hfkit is imported once.

Reads a JSON list from each line of its input: [ARGV, FOLDER, OUTPUT, SECONDS]. Answers with a line of JSON: the exit
status (negative: the signal that ended it), the seconds that it took, and its peak memory in bytes. What is still
running after SECONDS is killed, with the processes that it started.
"""

import json
import os
import resource
import signal
import sys
import time
from importlib import import_module

IMPORTS = ("hfkit.stages.sft", "hfkit.stages.ppo", "hfkit.commands.plan.main", "hfkit.commands.chat.main")
MEMORY = 8 << 30
"""Bytes that a command can take before its next allocation fails: the machine is safe from it."""


def run(argv: list[str], folder: str, output: str) -> None:
    """Be the command; never returns."""
    os.setsid()
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, stream), (2, stream)):
        os.dup2(source, standard)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    os.chdir(folder)
    status = 70
    try:
        status = import_module("hfkit.cli").main(argv)
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else 1 if exit.code else 0
    except BaseException:
        import_module("traceback").print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int, seconds: float) -> dict:
    """Wait for a command; return its status, seconds and peak memory."""
    started = time.monotonic()
    while not (ended := os.wait4(pid, os.WNOHANG))[0]:
        if time.monotonic() - started > seconds:
            os.killpg(pid, signal.SIGKILL)
            ended = os.wait4(pid, 0)
            break
        time.sleep(0.005)
    _, status, usage = ended
    taken = time.monotonic() - started
    return {"status": os.waitstatus_to_exitcode(status), "seconds": taken, "peak_bytes": usage.ru_maxrss * 1024}


def serve() -> None:
    """Run commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    for module in IMPORTS:
        import_module(module)
    for line in sys.stdin:
        argv, folder, output, seconds = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(argv, folder, output)
        print(json.dumps(wait(pid, seconds)), file=answers, flush=True)


if __name__ == "__main__":
    serve()
