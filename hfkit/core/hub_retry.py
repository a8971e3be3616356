"""Retries calls to the Hub after errors of the Hub or the connection.

huggingface_hub itself retries some requests, but not the creation of a repository, the validation of a card or a
commit. All calls made through this module can safely be repeated.
"""

import errno
import json
import math
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from hfkit.core.compat import http_library
from hfkit.core.console import warn
from hfkit.core.errors import HfkitError, reason

ATTEMPTS = 6
WARN_FROM = 3
"""The first attempt whose failure is reported; later waits are long."""
LONGEST_WAIT = 30.0
"""Seconds."""
TIMEOUT = 300.0
"""Seconds without data after which a request fails; the client waits forever by default."""
PROBE_WAITS, PROBE_TIMEOUT = (0.0, 1.0, 3.0), 3.0
"""Seconds before each attempt to reach the Hub, and the longest one to connect."""
UNREACHABLE = 60.0
"""Seconds for which the Hub counts as unreachable."""
NO_NETWORK = (errno.ENETDOWN, errno.ENETUNREACH, socket.EAI_NONAME)
"""Numbers of errors after which another attempt fails too: no network, or a name that does not exist in it."""
FAR_ADDRESS = ("198.51.100.1", 9)
"""An address of no machine, in a range for documentation, that only a default route leads to."""
TEMPORARY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
httpx = http_library(HfHubHTTPError)


class HubError(HfkitError):
    """The Hub does not have the requested object, or denies access to it."""


class HubUnreachable(HubError):
    """The Hub did not answer, or returned server errors, in every attempt."""


def with_retries(call: Callable, *args, attempts: int = ATTEMPTS, **kwargs):
    """Return the result of `call(*args, **kwargs)`; retry temporary errors after 1, 2, 4, ... seconds.

    Raises:
        HubUnreachable: every attempt failed, or HF_HUB_OFFLINE is set.
        Exception: any other error of the call.
    """
    for attempt in range(1, attempts + 1):
        get_session().timeout = TIMEOUT
        try:
            return call(*args, **kwargs)
        except OfflineModeIsEnabled as error:
            raise HubUnreachable("HF_HUB_OFFLINE is set: unset it to reach the Hub") from error
        except Exception as error:
            if not is_temporary(error):
                raise
            if attempt == attempts:
                raise HubUnreachable(f"the Hub cannot be reached: {describe_error(error)}") from error
            wait = max(requested_wait(error), min(2 ** (attempt - 1), LONGEST_WAIT) * random.uniform(1, 1.2))
            if attempt >= WARN_FROM:
                warn(f"{describe_error(error)}; retrying in {wait:.0f} s")
            time.sleep(wait)


@contextmanager
def cached_if_unreachable(path: Path | None = None) -> Iterator[None]:
    """Use only the Hub's cache in a block if the Hub cannot be reached.

    huggingface_hub 2.4.0 repeats every request for 24 seconds or more without a connection, and takes the cache then.

    Args:
        path: what the block reads; if it exists, no connection is needed.
    """
    if constants.HF_HUB_OFFLINE or (path and path.exists()) or can_reach_hub():
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


_last_failure, _last_error = -math.inf, ""
_has_answered = False


def can_reach_hub(waits: Sequence[float] = PROBE_WAITS) -> bool:
    """Return whether the Hub has answered this process, or answers now; a failure counts for `UNREACHABLE` seconds.

    Args:
        waits: seconds before each attempt.
    """
    global _last_failure, _last_error, _has_answered
    if constants.HF_HUB_OFFLINE:
        return False
    if _has_answered or time.monotonic() < _last_failure + UNREACHABLE:
        return _has_answered
    for wait in waits:
        time.sleep(wait)
        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_TIMEOUT)
        except Exception as error:
            if is_offline(error):
                _last_error = describe_error(error)
                if has_no_network(error):
                    break
                continue
        _has_answered = True  # an error of the Hub or of a proxy is an answer
        return True
    _last_failure = time.monotonic()
    return False


def has_no_network(error: BaseException | None) -> bool:
    """Return whether an error of a request, or its causes, show that this machine has no network with the Hub in it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_NETWORK:
            return True
        if isinstance(error, OSError) and error.errno == socket.EAI_AGAIN:
            return not has_route()
        error = error.__cause__ or error.__context__
    return False


def has_route() -> bool:
    """Return whether this machine has a route to other networks; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        return end.connect_ex(FAR_ADDRESS) not in NO_NETWORK


def why_unreachable() -> str:
    """Return why `can_reach_hub` returned False."""
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the Hub cannot be reached ({_last_error})"


def is_temporary(error: BaseException | None) -> bool:
    """Return whether another attempt may succeed, judged by an error and its causes."""
    while error is not None:
        if isinstance(error, OfflineModeIsEnabled):
            return False
        status = status_of(error)
        if status is not None:
            return status in TEMPORARY_STATUSES
        if isinstance(error, (httpx.HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)) and not isinstance(
            error, HfHubHTTPError
        ):
            return True  # the connection broke, or a proxy answered instead of the Hub
        error = error.__cause__
    return False


def is_offline(error: BaseException | None) -> bool:
    """Return whether there was no connection at all, or HF_HUB_OFFLINE forbids one."""
    while error is not None:
        if isinstance(error, (OfflineModeIsEnabled, httpx.ConnectError, httpx.ConnectTimeout)):
            return True
        error = error.__cause__
    return False


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status in an error of the client; None for any other error."""
    return getattr(getattr(error, "response", None), "status_code", None)


def requested_wait(error: BaseException) -> float:
    """Return the seconds to wait that `Retry-After` requests, at most twice LONGEST_WAIT; else 0."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    seconds = headers.get("Retry-After", "")
    return min(float(seconds), 2 * LONGEST_WAIT) if seconds.isdigit() else 0.0


def describe_error(error: BaseException) -> str:
    """Return an error in one line, without the queries of URLs, which may be signed."""
    return re.sub(r"\?[^\s'\"]+", "", reason(error))
