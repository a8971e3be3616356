"""Limits of chat templates: they are code that comes with a model, and may run for ever or fill the memory.

Jinja's sandbox keeps them from Python; this keeps them within `SECONDS`, `MEMORY` and `CHARACTERS`. A signal stops
them, in the main thread of a process, so no single operation may take long (`LARGEST_BITS`).
"""

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from jinja2 import Template, pass_environment
from jinja2.filters import do_round, sync_do_sum
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hfkit.core.compat import set_template_environment
from hfkit.core.errors import HfkitError
from hfkit.core.limits import TEMPLATE_LIMITS, limit_of
from hfkit.data.messages import iter_strings

SECONDS = 2.0
"""Processor time for one conversation; an ordinary one takes 0.0001."""
END = 5
"""How often `SECONDS` pass until the process is ended (SIGPROF), by an operation that no signal stops."""
MEMORY = 1 << 30
"""Bytes that a template may take beside what the process has (on Linux)."""
SOURCE = 200_000
"""Characters of a template."""
CHARACTERS, PER_CHARACTER = 200_000, 8
"""Characters that a template may write into a conversation, and for each character in it."""
LARGEST_BITS, DECIMALS, LONGEST_REPEATED = 1 << 14, 400, 10_000_000
"""Bits of numbers that are multiplied or divided, decimals that one is rounded to, characters of a repeated text."""
REFRESH = 0.1
"""Seconds after which the memory of the process is read anew."""


class UnusableTemplateError(HfkitError):
    """A chat template needs more time or memory than `limits` gives it, or is or writes too long a text."""


def with_remedy(error: UnusableTemplateError) -> str:
    """Return what an error says, and how the limit is raised."""
    return f"{error}; {TEMPLATE_LIMITS}=10 raises the limits tenfold"


class OutOfTime(BaseException):
    """What the signal raises; no `except Exception` of a library keeps it."""


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
        """Compile a template; constant parts of it are computed here already."""
        require_short(source)
        with template_limits():
            return super().from_string(source, *args, **options)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right`, unless the result would be too large to compute or to keep."""
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > LARGEST_BITS:
                raise UnusableTemplateError(f"computes {operator} of too large numbers")
        elif operator == "*" and (isinstance(left, int) or isinstance(right, int)):
            count, repeated = (left, right) if isinstance(left, int) else (right, left)
            if hasattr(repeated, "__len__") and len(repeated) * count > LONGEST_REPEATED * scale():
                raise UnusableTemplateError(f"repeats a text or list {count:,} times")
        return self.binop_table[operator](left, right)


def bounded_round(value: Any, precision: int = 0, method: Any = "common") -> float:
    """Round as Jinja's filter does, which computes ten to the power of the number of decimals: within `DECIMALS`."""
    if abs(precision) > DECIMALS:
        raise UnusableTemplateError(f"rounds to {precision:,} decimals")
    return do_round(value, precision, method)


@pass_environment
def bounded_sum(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    """Sum as Jinja's filter does, but only numbers: it would copy lists once for each item."""
    if not isinstance(start, (int, float)):
        raise UnusableTemplateError("sums values that are not numbers")
    return sync_do_sum(environment, iterable, attribute, start)


set_template_environment(BoundedEnvironment)


@cache
def scale() -> int:
    """Return what the limits are multiplied by."""
    return limit_of(TEMPLATE_LIMITS)


def require_short(source: object) -> None:
    """Raise UnusableTemplateError if a template is too long, or is no text."""
    if not isinstance(source, str):
        raise UnusableTemplateError(f"is not a text: {type(source).__name__}")
    if len(source) > SOURCE * scale():
        raise UnusableTemplateError(f"has {len(source):,} characters; the limit is {SOURCE * scale():,.0f}")


@contextmanager
def template_limits() -> Iterator[None]:
    """Run a block within the limits of time and memory.

    Raises:
        UnusableTemplateError: it takes more.
    """
    usual = _limit_memory()
    try:
        _start_timer()
        yield
    except OutOfTime:
        raise UnusableTemplateError(f"takes more than {SECONDS * scale():g} s for one conversation") from None
    except RecursionError:
        raise UnusableTemplateError("calls itself, or nests its parts, too deep") from None
    except MemoryError:
        raise UnusableTemplateError(f"takes more than {MEMORY * scale() / (1 << 30):g} GB of memory") from None
    finally:
        _stop_timer()
        if usual is not None:
            resource.setrlimit(resource.RLIMIT_DATA, usual)


_is_timed = False


def _start_timer() -> None:
    """Let `OutOfTime` be raised when the time is up, and again after that: it may be raised where it gets lost."""
    global _is_timed
    if threading.current_thread() is not threading.main_thread():  # where signals are not handled
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
    """Lower the limit of the process to `MEMORY` beside what it has; return the one before, None if it stays."""
    global _memory_limit, _memory_read
    if (now := time.monotonic()) - _memory_read > REFRESH:
        _memory_limit, _memory_read = int(data_bytes() + MEMORY * scale()), now
    soft, hard = usual = resource.getrlimit(resource.RLIMIT_DATA)
    if not _memory_limit > MEMORY or 0 <= soft <= _memory_limit:  # -1 is no limit
        return None
    resource.setrlimit(resource.RLIMIT_DATA, (_memory_limit, hard))
    return usual


def data_bytes() -> int:
    """Return how much writable memory this process has, in bytes; less than 0 where that is unknown."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError:  # not Linux, where the limit has no effect either
        return -(1 << 62)
