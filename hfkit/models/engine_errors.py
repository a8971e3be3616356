"""Shares failures of a sampling engine, such as a lost server, among all processes of a launch."""

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import PartialState
from accelerate.utils import gather_object

from hfkit.core.errors import HfkitError


class EngineError(HfkitError):
    """An engine failed to sample. The model is unchanged, so the run can save a checkpoint and resume from it."""


@contextmanager
def agree_on_failure() -> Iterator[None]:
    """Raise the EngineError of one process in all of them at the end of a block, which every process must enter.

    Otherwise the others would wait for that process in the next collective operation. A process that a signal
    interrupts also waits for the others, then raises only its own exception: all can still save a checkpoint together.
    """
    failure: BaseException | None = None
    try:
        yield
    except (EngineError, KeyboardInterrupt, SystemExit) as error:
        failure = error
    if PartialState().num_processes > 1:
        own = str(failure) if isinstance(failure, EngineError) else None
        messages = [message for message in gather_object([own]) if message]
        failure = failure or (EngineError(messages[0]) if messages else None)
    if failure:
        raise failure
