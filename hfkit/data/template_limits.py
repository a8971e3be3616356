"""Limits chat templates, which are untrusted code in a model and could run forever or exhaust memory.

Jinja's sandbox isolates them from Python; this module limits `SECONDS`, `MEMORY` and `CHARACTERS`. A signal stops
them in the main thread of a process, so no single operation may take long (`LARGEST_BITS`).
"""

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import psutil
from jinja2 import Template, pass_environment
from jinja2.filters import do_round, sync_do_sum
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hfkit.core.compat import set_template_environment
from hfkit.core.errors import HfkitError
from hfkit.core.limits import TEMPLATE_LIMITS, limit_of
from hfkit.data.messages import iter_strings

SECONDS = 2.0
"""Seconds of processor time for one conversation; an ordinary one takes 0.0001."""
END = 5
"""After this many times `SECONDS`, SIGPROF ends the process if an operation does not react to signals."""
MEMORY = 1 << 30
"""Bytes that a template may allocate in addition to the process's memory (on Linux)."""
SOURCE = 200_000
"""Maximum number of characters of a template."""
CHARACTERS, PER_CHARACTER = 200_000, 8
"""Maximum characters that a template may write: per conversation, and per character in it."""
LARGEST_BITS, DECIMALS, LONGEST_REPEATED = 1 << 14, 400, 10_000_000
"""Maximum bits of multiplied or divided numbers, decimals of a rounded number, characters of a repeated text."""
REFRESH = 0.1
"""Seconds after which the memory of the process is read again."""


class UnusableTemplateError(HfkitError):
    """A chat template is invalid, too long, writes too much text, or needs too much time or memory."""


def with_remedy(error: UnusableTemplateError) -> str:
    """Return the message of an error, and how to raise the limit."""
    return f"{error}; {TEMPLATE_LIMITS}=10 raises the limits tenfold"


class OutOfTime(BaseException):
    """Raised by the signal; not an Exception, so that libraries do not catch it."""


class BoundedTemplate(Template):
    """A Jinja template that renders within the limits."""

    def render(self, *args: Any, **values: Any) -> str:
        """Return the text.

        Raises:
            UnusableTemplateError: the template exceeds a limit.
        """
        with template_limits():
            text = super().render(*args, **values)
        if len(text) > CHARACTERS * scale():
            given = sum(map(len, iter_strings([*args, values])))
            if len(text) > CHARACTERS * scale() + PER_CHARACTER * given:
                raise UnusableTemplateError(f"writes {len(text):,} characters for a conversation of {given:,}")
        return text


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of Transformers, with limits."""

    template_class = BoundedTemplate
    intercepted_binops = frozenset(("*", "**", "%", "//"))

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.filters |= {"round": bounded_round, "sum": bounded_sum}

    def from_string(self, source: Any, *args: Any, **options: Any) -> Template:
        """Compile a template within the limits, since this already computes its constant parts."""
        require_short(source)
        with template_limits():
            return super().from_string(source, *args, **options)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right`, unless the result would be too large."""
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > LARGEST_BITS:
                raise UnusableTemplateError(f"computes {operator} with numbers that are too large")
        elif operator == "*" and (isinstance(left, int) or isinstance(right, int)):
            count, repeated = (left, right) if isinstance(left, int) else (right, left)
            if hasattr(repeated, "__len__") and len(repeated) * count > LONGEST_REPEATED * scale():
                raise UnusableTemplateError(f"repeats a text or list {count:,} times")
        return self.binop_table[operator](left, right)


def bounded_round(value: Any, precision: int = 0, method: Any = "common") -> float:
    """Round like Jinja's filter, which computes ten to the power of the decimals: at most `DECIMALS` of them."""
    if abs(precision) > DECIMALS:
        raise UnusableTemplateError(f"rounds to {precision:,} decimals")
    return do_round(value, precision, method)


@pass_environment
def bounded_sum(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    """Sum like Jinja's filter, but only numbers: a sum of lists would copy them once per item."""
    if not isinstance(start, (int, float)):
        raise UnusableTemplateError("sums values that are not numbers")
    return sync_do_sum(environment, iterable, attribute, start)


set_template_environment(BoundedEnvironment)


@cache
def scale() -> int:
    """Return the factor of the limits."""
    return limit_of(TEMPLATE_LIMITS)


def require_short(source: object) -> None:
    """Raise UnusableTemplateError if a template is too long, or not text."""
    if not isinstance(source, str):
        raise UnusableTemplateError(f"is not text: {type(source).__name__}")
    if len(source) > SOURCE * scale():
        raise UnusableTemplateError(f"has {len(source):,} characters; the limit is {SOURCE * scale():,.0f}")


@contextmanager
def template_limits() -> Iterator[None]:
    """Run a block within the limits of time and memory.

    Raises:
        UnusableTemplateError: it exceeds them.
    """
    usual = _limit_memory()
    try:
        _start_timer()
        yield
    except OutOfTime:
        raise UnusableTemplateError(f"takes more than {SECONDS * scale():g} s for one conversation") from None
    except RecursionError:
        raise UnusableTemplateError("is nested, or calls itself, too deeply") from None
    except MemoryError:
        raise UnusableTemplateError(f"takes more than {MEMORY * scale() / (1 << 30):g} GB of memory") from None
    finally:
        _stop_timer()
        if usual is not None:
            resource.setrlimit(resource.RLIMIT_DATA, usual)


_is_timed = False


def _start_timer() -> None:
    """Raise `OutOfTime` when the time is up, and repeatedly after that, since Python may discard an exception."""
    global _is_timed
    if threading.current_thread() is not threading.main_thread():  # only the main thread handles signals
        return
    _handle_signal()
    _is_timed = True
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS * scale(), 0.5)
    signal.setitimer(signal.ITIMER_PROF, END * SECONDS * scale())


def _stop_timer() -> None:
    global _is_timed
    if _is_timed and threading.current_thread() is threading.main_thread():
        _is_timed = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)


@cache
def _handle_signal() -> None:
    signal.signal(signal.SIGVTALRM, _raise_out_of_time)


def _raise_out_of_time(*_) -> None:
    if _is_timed:
        raise OutOfTime


_memory_limit, _memory_read = 0, -REFRESH


def _limit_memory() -> tuple[int, int] | None:
    """Lower the process's limit to its memory plus `MEMORY`; return the previous limit, or None if unchanged."""
    global _memory_limit, _memory_read
    if (now := time.monotonic()) - _memory_read > REFRESH:
        _memory_limit, _memory_read = int(data_bytes() + MEMORY * scale()), now
    soft, hard = usual = resource.getrlimit(resource.RLIMIT_DATA)
    if not _memory_limit > MEMORY or 0 <= soft <= _memory_limit:  # -1: unlimited
        return None
    resource.setrlimit(resource.RLIMIT_DATA, (_memory_limit, hard))
    return usual


def data_bytes() -> int:
    """Return the writable memory of this process in bytes; below 0 if unknown."""
    return getattr(psutil.Process().memory_info(), "data", -(1 << 62))  # only Linux has it, and enforces the limit
