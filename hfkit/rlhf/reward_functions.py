"""Reward functions: Python functions that score responses, named as package.module:function or FILE.py:function."""

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import torch

from hfkit.core.errors import HfkitError, reason
from hfkit.core.interrupts import Interrupted
from hfkit.core.missing_paths import no_such
from hfkit.data.messages import Messages

RewardFunction = Callable[..., Iterable[float]]
"""f(prompts, replies, **columns): one finite number for each response."""
NAMES_OF_REPLIES = ("completions", "responses", "replies", "outputs", "generations")
"""Names that a first argument must not have: TRL calls f(completions, answer) by name, hfkit f(prompts, replies)."""


_given: dict[str, RewardFunction] = {}


def name_function(function: RewardFunction) -> str:
    """Return the name `module:name` of a function that Python code passes; `import_reward_function` then returns it."""
    owner = function if hasattr(function, "__qualname__") else type(function)
    name = f"{owner.__module__}:{owner.__qualname__}"
    _given[name] = function
    return name


def import_module_or_file(module: str) -> ModuleType:
    """Import a module by name, from the working directory too, or a Python file by path; each only once."""
    if os.getcwd() not in sys.path:  # the search path of a console script starts with the script's folder
        sys.path.append(os.getcwd())
    if not module.endswith(".py"):
        return importlib.import_module(module)
    name = os.path.abspath(module)
    if name not in sys.modules:
        spec = spec_from_file_location(name, name)
        assert spec is not None and spec.loader is not None  # it ends in .py
        loaded = module_from_spec(spec)
        spec.loader.exec_module(loaded)
        sys.modules[name] = loaded
    return sys.modules[name]


def import_reward_function(path: str) -> RewardFunction:
    """Return a function by its name: `module:name`, `FILE.py:name`, or as `name_function` returned it.

    Raises:
        HfkitError: it cannot be imported, or is not callable.
    """
    if path in _given:
        return _given[path]
    module, _, name = path.rpartition(":")
    if module.endswith(".py") and not os.path.isfile(module):
        raise HfkitError(f"reward function {path}: {no_such('file', module)}")
    try:
        function = getattr(import_module_or_file(module), name)
    except Interrupted:  # a signal
        raise
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        line = user_line(None, error)
        remedy = line or "; write it as package.module:function or FILE.py:function"
        raise HfkitError(f"reward function {path}: {reason(error)}{remedy}") from error
    if not callable(function):
        raise HfkitError(f"reward function {path} is a {type(function).__name__}, which is not callable")
    return function


def check_reward_function(path: str, columns: Sequence[str]) -> None:
    """Raise an HfkitError if a function cannot be imported, or called with prompts, responses and these columns."""
    function = import_reward_function(path)
    if inspect.isbuiltin(function):  # some builtins have no signature
        return
    signature = inspect.signature(function)
    try:
        if next(iter(signature.parameters), "") in NAMES_OF_REPLIES:
            raise TypeError("the prompts would be passed as the responses")
        signature.bind([], [], **dict.fromkeys(columns))
    except TypeError as error:
        called = ", ".join(["prompts", "replies", *columns])
        raise HfkitError(
            f"reward function {path} takes {signature}, but is called with ({called}): "
            "define it as f(prompts, replies, **columns), and name the columns that it reads in reward_columns"
        ) from error


def call_reward_function(
    name: str, function: RewardFunction, prompts: list[str | Messages], replies: list[str], columns: dict[str, list]
) -> torch.Tensor:
    """Return the scores of a function, float32 (N,).

    Raises:
        HfkitError: it raises an error (the message has the user's line), or does not return one finite number for each
            response.
    """
    try:
        scores = function(prompts, replies, **columns)
        scores = [*scores] if isinstance(scores, Iterator) else scores  # a generator runs only when its items are read
    except Interrupted:  # a signal
        raise
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        raise HfkitError(f"reward function {name} raised {reason(error)}{user_line(function, error)}") from error
    return validate_scores(name, scores, len(replies))


def user_line(function: RewardFunction | None, error: BaseException) -> str:
    """Return where in the user's code an error was raised: `, in FILE, line N: CODE`; "" if outside of it.

    Args:
        function: whose file it is; None for an import, where the user's frames follow Python's own.
    """
    frames = traceback.extract_tb(error.__traceback__)[1:]
    file = getattr(sys.modules.get(getattr(function, "__module__", "")), "__file__", None)
    libraries = (os.path.dirname(__file__), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
    own = [frame for frame in frames if frame.filename == file]
    own = own or [frame for frame in frames if not frame.filename.startswith(libraries)]
    return f", in {own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else ""


def validate_scores(name: str, scores: Iterable[float], count: int) -> torch.Tensor:
    """Return the scores of a function as a tensor, float32 (count,).

    Raises:
        HfkitError: they are not one finite number for each response.
    """
    try:
        scores = [*scores]
        if any(isinstance(score, str) for score in scores):
            raise TypeError("text")
        tensor = torch.tensor([float(score) for score in scores])
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise HfkitError(f"reward function {name} returned {scores!r:.80}, not a number for each response") from error
    if len(tensor) != count:
        raise HfkitError(f"reward function {name} returned {len(tensor)} numbers for {count} responses")
    if not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).nonzero()[0])
        raise HfkitError(f"reward function {name} returned {scores[bad]} for response {bad}, not a finite number")
    return tensor
