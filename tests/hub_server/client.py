"""A process that is a user of the Hub: runs commands from its standard input, one JSON list per line.

["hfkit", ARGV...] runs a command of hfkit; ["python", CODE] runs Python and returns its variable `answer`.
The reply to each is one line of JSON: status, stdout, stderr and answer. Waits between retries are shortened.
"""

import io
import json
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout


def do(what: str, *words: str) -> tuple[int, object]:
    """Run one command and return (exit status, answer)."""
    if what == "hfkit":
        from hfkit.cli import main

        try:
            return main(list(words)), None
        except SystemExit as exit:
            return exit.code or 0, None
    names: dict = {}
    exec(words[0], names)
    return 0, names.get("answer")


def shorten_sleeps() -> None:
    """Limit `time.sleep` to 20 ms: retries wait for seconds."""
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.02))


def serve() -> None:
    """Run commands until the input ends."""
    shorten_sleeps()
    replies = sys.stdout
    for line in sys.stdin:
        out, err, status, answer = io.StringIO(), io.StringIO(), 70, None
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status, answer = do(*json.loads(line))
            except BaseException:
                traceback.print_exc()
        reply = {"status": status, "stdout": out.getvalue(), "stderr": err.getvalue(), "answer": answer}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
