"""Forks behave like processes of `python -c`: separate variables, modules and streams, exit statuses, signals."""

import os
import signal

import pytest
from forks import Fork, Worker, run


def test_a_fork_has_its_own_folder_variables_and_modules(tmp_path):
    code = "import os, sys; from huggingface_hub.constants import HF_HOME; print(os.getcwd(), HF_HOME, *sys.argv[1:])"
    ran = run(code, 1, "two", cwd=tmp_path, env={**os.environ, "HF_HOME": "/home/of/ann"})
    assert (ran.returncode, ran.stdout.split(), ran.stderr) == (0, [str(tmp_path), "/home/of/ann", "1", "two"], "")
    assert run("import sys; sys.exit('hfkit' in sys.modules)").returncode == 0


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [("import sys; sys.exit(3)", 3, ""), ("1 / 0", 1, "ZeroDivisionError"), ("import os; os.kill(0, 9)", -9, "")],
)
def test_its_exit_status_is_that_of_its_code(code, status, error):
    ran = run(code)
    assert ran.returncode == status and error in ran.stderr


WAIT = """
import sys, time
try:
    print(0, flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_signal_ends_it(number, status):
    worker = Worker(WAIT)
    assert worker.receive() == 0 and worker.poll() is None
    os.kill(worker.pid, number)
    assert worker.wait(timeout=60) == status


def test_it_can_be_killed():
    fork = Fork(WAIT)
    fork.kill()
    assert fork.poll() == -9


AT_THE_END = """
import atexit, sys, threading, time
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
print("main")
"""


@pytest.mark.parametrize(
    ("last", "status", "error"),
    [("", 0, ""), ("sys.exit('no')", 1, "no"), ("raise KeyboardInterrupt", -2, "Interrupt"), ("sys.exit(300)", 44, "")],
)
def test_it_ends_like_python(last, status, error):
    ran = run(AT_THE_END + last)
    assert (ran.returncode, ran.stdout.split("\n")) == (status, ["main", "thread", "at exit", ""])
    assert error in ran.stderr and bool(error) == bool(ran.stderr)


@pytest.mark.slow
def test_processes_share_a_server():
    """Each of several forks of this process starts forks at the same time as the others."""
    run("pass")
    started = []
    for number in range(3, 9):
        started.append(os.fork())
        if started[-1] == 0:
            os._exit(max(run(f"import sys; sys.exit({number})").returncode for _ in range(5)))
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started] == [3, 4, 5, 6, 7, 8]
