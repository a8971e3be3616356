"""What a person at the terminal sees: our own lines, and no walls of the libraries' warnings."""

import logging
import os
import sys
import unicodedata
import warnings


def is_main_process() -> bool:
    """True on the process that writes and speaks; `accelerate launch` sets RANK."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """One line for the person at the terminal, from the main process only."""
    if is_main_process():
        print(message, flush=True)


_unrecorded: list[str] = []


def warn(message: str) -> None:
    """A line that should not be overlooked: what was seen, and what to change. The run's record keeps it too."""
    if is_main_process():
        print(f"warning: {message}", file=sys.stderr, flush=True)
        _unrecorded.append(message)


def take_warnings() -> list[str]:
    """What was warned of since this was last called: whoever writes a record puts it there."""
    taken = list(_unrecorded)
    _unrecorded.clear()
    return taken


def printable(text: str) -> str:
    """Text that somebody else wrote, less what a terminal would obey: control characters and marks of direction.

    Line breaks and tabs stay, and the joiners that letters and emoji are put together with.
    """
    kept = "\n\t\u200c\u200d"
    return "".join(one for one in text if one in kept or unicodedata.category(one) not in ("Cc", "Cf", "Cs"))


def quiet_libraries() -> None:
    """Turns the libraries' notes off; call it before they are imported. HFKIT_DEBUG=1 leaves them on."""
    if os.environ.get("HFKIT_DEBUG") == "1":
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its notes hold signed URLs
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars are for a terminal; in a file they are noise
    for name in ("bitsandbytes", "torchao", "httpx", "huggingface_hub", "accelerate", "trl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(trl|transformers|torch|peft|accelerate|multiprocess)\b.*")
