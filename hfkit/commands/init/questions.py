"""Asks at the terminal for what no flag sets."""

import shlex
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterable

from prompt_toolkit import prompt
from prompt_toolkit.completion import Completer, PathCompleter, WordCompleter

from hfkit.commands.number_arguments import number_of_gigabytes
from hfkit.core.errors import ConfigError, Problem
from hfkit.core.home import expand_home
from hfkit.training.memory.device import Device


def ask_sources(given: Namespace) -> None:
    """Ask for the model and the data, unless flags set them.

    Raises:
        ConfigError: a quote in the answer is not closed.
    """
    given.model = given.model or ask("model (folder or Hub id)", completer=PathCompleter())
    given.data = given.data or split_words(ask("data (files, separated by spaces)", completer=PathCompleter()))


def ask_plan(given: Namespace, goals: Iterable[str], goal: str, device: Device, output_dir: str) -> None:
    """Ask for the goal, the memory and the folder, unless flags set them.

    Args:
        goals: the possible ones.
        goal: the one that fits the data.
        device: that of this process.
        output_dir: the default folder.
    """
    given.goal = given.goal or ask(f"goal ({', '.join(goals)})", goal, WordCompleter([*goals]))
    if not given.gpu and not given.memory:
        size = f"{device.capacity / 1e9:.0f}"
        answer = ask(f"memory in GB, of {device.name}", size)
        given.memory = None if answer == size else memory_in_gigabytes(answer)
    given.output_dir = given.output_dir or ask("folder to write", output_dir, PathCompleter(only_directories=True))


def ask(question: str, default: str = "", completer: Completer | None = None) -> str:
    """Return the answer to a question, with `~` as the home folder; an empty answer is the default."""
    shown = f"{question} [{default}]: " if default else f"{question}: "
    try:
        return expand_home(prompt(shown, completer=completer).strip()) or default
    except EOFError:  # Ctrl-D exits as Ctrl-C does
        raise KeyboardInterrupt from None


def split_words(answer: str) -> list[str]:
    """Return the words of an answer, which may be quoted as in a shell.

    Raises:
        ConfigError: a quote is not closed.
    """
    try:
        return shlex.split(answer)
    except ValueError as error:
        raise ConfigError([Problem("--data", answer, "close the quote, or write a backslash before it")]) from error


def memory_in_gigabytes(answer: str) -> float:
    """Return an answer as a number of GB.

    Raises:
        ConfigError: it is none, or not above 0.
    """
    try:
        return number_of_gigabytes(answer)
    except ArgumentTypeError as error:
        raise ConfigError([Problem("--memory", answer, "expected a number of GB above 0")]) from error
