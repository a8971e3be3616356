"""Lines for the person at the terminal, and silence for the libraries' own notes."""

import logging
import os
import sys
import unicodedata
import warnings


def is_main_process() -> bool:
    """Return whether this process prints and writes files; `accelerate launch` sets RANK."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Print a line, from the main process only."""
    if is_main_process():
        print(message, flush=True)


_unrecorded: list[str] = []


def warn(message: str) -> None:
    """Print a warning, from the main process only: what is wrong, and what to change. The run's record keeps it too."""
    if is_main_process():
        print(f"warning: {message}", file=sys.stderr, flush=True)
        _unrecorded.append(message)


def take_warnings() -> list[str]:
    """Return the warnings since the last call, for the record that the caller writes."""
    taken = list(_unrecorded)
    _unrecorded.clear()
    return taken


def printable(text: str) -> str:
    """Return a text of unknown origin without what a terminal would obey: control characters and direction marks.

    Line breaks, tabs and the joiners within letters and emoji stay.
    """
    kept = "\n\t\u200c\u200d"
    return "".join(one for one in text if one in kept or unicodedata.category(one) not in ("Cc", "Cf", "Cs"))


def printable_line(text: str) -> str:
    """Return the `printable` part of a text on one line."""
    return printable(" ".join(text.splitlines()))


def escape_unprintable() -> None:
    """Let the terminal show characters that its encoding lacks as escapes, such as \\u4e2d, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def is_debugging() -> bool:
    """Return whether HFKIT_DEBUG=1 asks for tracebacks, and for the libraries' own notes."""
    return os.environ.get("HFKIT_DEBUG") == "1"


def debug(error: BaseException) -> None:
    """Print the traceback of an error that is reported in a line, if HFKIT_DEBUG=1 asks for it."""
    if is_debugging():
        sys.excepthook(type(error), error, error.__traceback__)


def quiet_libraries(bars: bool = False) -> None:
    """Turn the libraries' notes off, unless `is_debugging`. Call it before they are imported.

    Args:
        bars: whether progress bars stay where there is no terminal: a notebook draws them.
    """
    if is_debugging():
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its notes contain signed URLs
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if not bars and not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars are noise in a log file
    for name in ("bitsandbytes", "torchao", "httpx", "huggingface_hub", "accelerate", "trl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(trl|transformers|torch|peft|accelerate|multiprocess)\b.*")
