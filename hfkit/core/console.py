"""Prints lines and warnings for the user, and silences the libraries' own messages."""

import logging
import os
import re
import sys
import unicodedata
import warnings
from functools import cache
from typing import Any, TextIO, cast

from hfkit.core.masking import mask_secrets

LONGEST_MESSAGE = 20_000
"""Maximum number of characters of a message; one with all problems of a config has a few thousand."""
KEPT = "\n\t\u200c\u200d"
"""Control characters that ordinary text contains: line breaks, tabs, and joiners within letters and emoji."""
LAYOUT = re.compile(r"(\r|\x1b\[[0-9;]*[mABCDGK]|\x1b\[\?25[lh])")
"""Escape sequences of colors and progress bars: they move the cursor within its lines, or hide it."""


def is_main_process() -> bool:
    """Return whether this process prints and writes files; `accelerate launch` sets RANK."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Print a line, from the main process only."""
    if is_main_process():
        print(clean(message), flush=True)


@cache
def announce_libraries(verb: str) -> None:
    """Print once, on stderr, that a verb loads PyTorch if it is not loaded yet: nothing else is printed for seconds."""
    if is_main_process() and "torch" not in sys.modules:
        print(f"hfkit {verb}: loading PyTorch and Transformers", file=sys.stderr, flush=True)


_unrecorded: list[str] = []


def warn(message: str) -> None:
    """Print a warning, from the main process only: what is wrong, and what to change. The run's record keeps it too."""
    if is_main_process():
        message = clean(message)
        print(f"warning: {message}", file=sys.stderr, flush=True)
        _unrecorded.append(message)


def take_warnings() -> list[str]:
    """Return the warnings since the last call, for the record that the caller writes."""
    taken = list(_unrecorded)
    _unrecorded.clear()
    return taken


def printable(text: str) -> str:
    """Return untrusted text with the characters that a terminal would obey as escapes, such as \\x1b.

    These are control characters and direction marks. Line breaks, tabs, and joiners within letters and emoji stay.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or not is_control(one) else escaped(one) for one in text)


def is_control(character: str) -> bool:
    """Return whether a terminal may obey a character."""
    return character not in KEPT and unicodedata.category(character) in ("Cc", "Cf", "Cs")


def escaped(character: str) -> str:
    """Return the escape of a character as Python writes it."""
    return character.encode("unicode_escape").decode()


def printable_line(text: str) -> str:
    """Return the `printable` part of a text on one line."""
    return printable(" ".join(text.splitlines()))


def clean(text: str) -> str:
    """Return a message that is safe to print or store: `printable`, without secrets, and of limited length.

    Dots replace the middle of a text with more than `LONGEST_MESSAGE` characters: it may quote untrusted files.
    """
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[: LONGEST_MESSAGE // 2]} ... {text[-LONGEST_MESSAGE // 2 :]}"
    return printable(mask_secrets(text))


class CleanStream:
    """A text stream that masks secrets and escapes all control characters except those of colors and progress bars.

    It covers messages, tables, tracebacks, and the logs and warnings of libraries.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        masked = mask_secrets(text)
        if not masked.isprintable():
            masked = "".join(part if index % 2 else printable(part) for index, part in enumerate(LAYOUT.split(masked)))
        self.stream.write(masked)
        return len(text)

    def writelines(self, lines) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def clean_output() -> None:
    """Send a command's output through `CleanStream`; escape what its encoding lacks, such as \\u4e2d."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        if stream is not None and not isinstance(stream, CleanStream):
            setattr(sys, name, cast(TextIO, CleanStream(stream)))


def is_debugging() -> bool:
    """Return whether HFKIT_DEBUG=1 asks for tracebacks and for the libraries' own messages."""
    return os.environ.get("HFKIT_DEBUG") == "1"


def debug(error: BaseException) -> None:
    """Print the traceback of an error that is reported in one line, if HFKIT_DEBUG=1 asks for it."""
    if is_debugging():
        sys.excepthook(type(error), error, error.__traceback__)


def is_error(record: logging.LogRecord) -> bool:
    """Return whether a record of a logger is at least an error."""
    return record.levelno >= logging.ERROR


def quiet_libraries(bars: bool = False) -> None:
    """Silence the libraries' messages, unless `is_debugging`. Call it before they are imported.

    Args:
        bars: whether to keep progress bars without a terminal: a notebook draws them.
    """
    if is_debugging():
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its messages contain signed URLs
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if not bars and not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars are noise in a log file
    # torch.utils.cpp_extension warns where a CUDA compiler is installed and there is no GPU
    loggers = ("bitsandbytes", "torchao", "httpx", "huggingface_hub", "accelerate", "trl", "torch.utils.cpp_extension")
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    # DeepSpeed sets the level of its logger when it is imported, but keeps filters
    logging.getLogger("DeepSpeed").addFilter(is_error)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(trl|transformers|torch|peft|accelerate|multiprocess)\b.*")
