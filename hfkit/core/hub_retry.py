"""Calls to the Hub, made again after a while where the fault was the Hub's or the line's.

huggingface_hub tries some of its requests again and gives others up at once, among them the creation of a repository,
the check of a card and the commit. What is called through here may be done twice without harm.
"""

import json
import random
import re
import time
from collections.abc import Callable
from importlib import import_module

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from hfkit.core.console import warn
from hfkit.core.errors import HfkitError, reason

ATTEMPTS = 6
TOLD_FROM = 3
"""The attempt from which on its failure is told, since the waits are long by then."""
LONGEST_WAIT = 30.0
"""Seconds."""
PATIENCE = 300.0
"""Seconds without a byte, after which a request counts as lost; the client itself would wait for ever."""
BUSY = (408, 425, 429, 500, 502, 503, 504)
# Or its successor: whichever the client stands on.
httpx = import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])


class HubError(HfkitError):
    """The Hub does not have, or does not give, what was asked for."""


class Unreachable(HubError):
    """The Hub did not answer, or with errors of its own, as often as it was asked."""


def with_retries(call: Callable, *args, attempts: int = ATTEMPTS, **kwargs):
    """What `call(*args, **kwargs)` returns; it is called again, after 1, 2, 4, ... seconds, if the fault is passing.

    Raises:
        Unreachable: as often as `attempts`; or HF_HUB_OFFLINE is set.
        Exception: whatever else it raises.
    """
    for attempt in range(1, attempts + 1):
        get_session().timeout = PATIENCE
        try:
            return call(*args, **kwargs)
        except OfflineModeIsEnabled as error:
            raise Unreachable("HF_HUB_OFFLINE is set: unset it to reach the Hub") from error
        except Exception as error:
            if not is_passing(error):
                raise
            if attempt == attempts:
                raise Unreachable(f"the Hub cannot be reached: {describe_error(error)}") from error
            wait = max(wait_asked_for(error), min(2 ** (attempt - 1), LONGEST_WAIT) * random.uniform(1, 1.2))
            if attempt >= TOLD_FROM:
                warn(f"{describe_error(error)}; the Hub is asked again in {wait:.0f} s")
            time.sleep(wait)


def is_passing(error: BaseException | None) -> bool:
    """Whether it may go well the next time; what a library wrapped is looked into."""
    while error is not None:
        if isinstance(error, OfflineModeIsEnabled):
            return False
        status = status_of(error)
        if status is not None:
            return status in BUSY
        if isinstance(error, (httpx.HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)) and not isinstance(
            error, HfHubHTTPError
        ):
            return True  # the line broke, or a gateway answered in place of the Hub
        error = error.__cause__
    return False


def is_cut_off(error: BaseException | None) -> bool:
    """Whether no connection came about at all, or none was to be made."""
    while error is not None:
        if isinstance(error, (OfflineModeIsEnabled, httpx.ConnectError, httpx.ConnectTimeout)):
            return True
        error = error.__cause__
    return False


def status_of(error: BaseException) -> int | None:
    """The HTTP status in an error of the client's; None in any other."""
    return getattr(getattr(error, "response", None), "status_code", None)


def wait_asked_for(error: BaseException) -> float:
    """Seconds that a busy Hub wants to be left alone."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    seconds = headers.get("Retry-After", "")
    return min(float(seconds), 2 * LONGEST_WAIT) if seconds.isdigit() else 0.0


def describe_error(error: BaseException) -> str:
    """Why it failed, in a line; without the queries of URLs, which may be signed."""
    return re.sub(r"\?[^\s'\"]+", "", reason(error))
