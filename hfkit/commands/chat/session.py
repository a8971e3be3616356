"""The terminal side of a chat: reads lines, runs commands, and streams responses."""

from collections.abc import Callable
from dataclasses import replace
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import NestedCompleter
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hfkit.commands.chat.conversation import Conversation, Settings
from hfkit.commands.chat.models import ChatModel, LoadedModels
from hfkit.config.validation import describe_type
from hfkit.core.console import debug, printable
from hfkit.core.errors import HfkitError, nearest
from hfkit.core.interrupts import catch_interrupts
from hfkit.core.tables import make_console

QUIT = "/quit"
COMMANDS = {
    "/temperature": "T: set the temperature; 0 is greedy",
    "/length": "N: set the most tokens of a response",
    "/system": "TEXT: set the system prompt; without text, remove it",
    "/adapter": "NAME: switch to another adapter, or to the base; without a name, list them",
    "/reset": "clear the conversation",
    "/help": "list the commands",
    QUIT: "end the chat; so does Ctrl-D",
}


def answer_once(models: list[ChatModel], prompt: str, settings: Settings) -> None:
    """Print one response of each model while it is generated; with several models, each below its name.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped a response.
    """
    for model in models:
        if len(models) > 1:
            print(f"== {model.name}", flush=True)
        stopped, _ = stream_reply(model, Conversation(), prompt, settings, print_text)
        print(flush=True)
        if stopped:
            raise KeyboardInterrupt


def print_text(text: str) -> None:
    """Print a model's text without terminal control characters."""
    print(printable(text), end="", flush=True)


def stream_reply(
    model: ChatModel, conversation: Conversation, message: str, settings: Settings, write: Callable[[str], None]
) -> tuple[bool, list[str]]:
    """Generate a model's response, call `write` with each piece, and add message and response to the conversation.

    Returns:
        whether Ctrl-C stopped the response, and the notes to show below it.
    """
    conversation.add_question(message)
    text, notes, context = "", [], model.base.context
    try:
        ids, length, left_out = conversation.encode(model.tokenizer, settings, context)
        if left_out:
            notes.append(f"the context of {context} tokens is full: the {left_out} oldest messages were left out")
        text, stopped = model.generate(ids, length, settings.temperature, write)
    finally:
        conversation.add_reply(text)
    notes += ["stopped"] if stopped else [] if text else ["an empty response"]
    return stopped, notes


class ChatSession:
    """A chat with one model, or with two side by side; each has its own conversation."""

    def __init__(self, loaded: LoadedModels, models: list[ChatModel], settings: Settings):
        self.loaded, self.models, self.settings = loaded, models, settings
        self.conversations = [Conversation() for _ in models]
        self.console = make_console(highlight=False)

    def run(self, stream: TextIO) -> None:
        """Answer messages and run commands until the input ends."""
        self.note(f"{' and '.join(model.name for model in self.models)}: /help lists the commands")
        keyboard = PromptSession() if stream.isatty() else None
        with catch_interrupts():  # Ctrl-C stops a response, or a line, not the chat
            self.answer_lines(stream, keyboard)

    def answer_lines(self, stream: TextIO, keyboard: PromptSession | None) -> None:
        """Answer line by line; without a keyboard, Ctrl-C ends the chat."""
        while True:
            try:
                line = self.read_line(keyboard) if keyboard else next(stream, QUIT).strip()
                if line == QUIT:
                    return
                if line.startswith("/"):
                    self.run_command(*line.split(maxsplit=1))
                elif line:
                    self.answer(line)
            except HfkitError as error:
                debug(error)
                self.console.print(Text(printable(str(error)), "red"))
            except KeyboardInterrupt:  # on the keyboard, it discards the line that is being typed
                if keyboard is None:
                    raise

    def read_line(self, keyboard: PromptSession) -> str:
        """Read a line from the keyboard; Ctrl-D counts as `QUIT`."""
        names = dict.fromkeys(self.loaded.models_on(self.models[0].base))
        completer = NestedCompleter.from_nested_dict({**dict.fromkeys(COMMANDS), "/adapter": names})
        try:
            return keyboard.prompt("> ", completer=completer, complete_while_typing=False).strip()
        except EOFError:
            return QUIT

    def run_command(self, command: str, argument: str = "") -> None:
        """Run one of `COMMANDS`.

        Raises:
            HfkitError: the command does not exist, or its argument is invalid.
        """
        if command in ("/temperature", "/length"):
            kind = {"/temperature": float, "/length": int}[command]
            try:
                self.change_settings(**{command[1:]: kind(argument)})
            except ValueError as error:
                raise HfkitError(f"{command} {argument}: expected {describe_type(kind)} after {command}") from error
        elif command == "/system":
            self.change_settings(system=argument or None)
        elif command == "/adapter":
            self.switch_adapter(argument)
        elif command == "/reset":
            self.conversations = [Conversation() for _ in self.models]
            self.note("conversation cleared")
        elif command == "/help":
            for name, text in COMMANDS.items():
                self.note(f"{name:<13}{text}")
        else:
            guess = nearest(command, COMMANDS)
            hint = f"did you mean {guess}?" if guess else "/help lists the commands"
            raise HfkitError(f"unknown command {command}: {hint}")

    def change_settings(self, **changes) -> None:
        """Change settings for the next responses."""
        self.settings = replace(self.settings, **changes)
        self.note(", ".join(f"{name} {value}" for name, value in changes.items()))

    def switch_adapter(self, name: str) -> None:
        """Switch the first model to another adapter and keep the conversation; without a name, list the adapters.

        Raises:
            HfkitError: there is no adapter of that name.
        """
        models = self.loaded.models_on(self.models[0].base)
        if name and name not in models:
            raise HfkitError(f"no adapter {name!r}: choose from {', '.join(models)} (--adapter loads more)")
        if name:
            self.models[0] = models[name]
        self.note(", ".join(f"[{one}]" if one == self.models[0].name else one for one in models))

    def note(self, text: str) -> None:
        """Print a note about the chat."""
        self.console.print(Text(printable(text), "dim"))

    def answer(self, message: str) -> None:
        """Show the response of each model to a message."""
        if len(self.models) == 1:
            self.console.print(Text(f"{self.models[0].name}: ", "bold"), end="")
            _, notes = stream_reply(self.models[0], self.conversations[0], message, self.settings, print_text)
            print(flush=True)
        else:
            notes = self.answer_side_by_side(message)
        for text in dict.fromkeys(notes):
            self.note(f"({text})")

    def answer_side_by_side(self, message: str) -> list[str]:
        """Show responses in columns, one model after the other, and return the notes; Ctrl-C skips the later models."""
        table, columns = Table(expand=True), [Text() for _ in self.models]
        for model in self.models:
            table.add_column(Text(model.name), ratio=1)
        table.add_row(*columns)
        notes: list[str] = []
        with Live(table, console=self.console):
            for model, conversation, column in zip(self.models, self.conversations, columns, strict=True):
                stopped, own = stream_reply(
                    model, conversation, message, self.settings, lambda text, to=column: to.append(printable(text))
                )
                notes += own
                if stopped:
                    break
        return notes
