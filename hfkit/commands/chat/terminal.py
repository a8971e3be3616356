"""The terminal side of a chat: lines read, commands obeyed, replies shown as they come."""

from dataclasses import replace
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import NestedCompleter
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hfkit.commands.chat.conversation import Conversation, Settings
from hfkit.commands.chat.voices import Choir, Voice
from hfkit.config.validation import describe_type
from hfkit.core.console import printable
from hfkit.core.errors import HfkitError, nearest

QUIT = "/quit"
COMMANDS = {
    "/temperature": "T: how freely it samples; 0 takes the likeliest token",
    "/length": "N: most tokens of a reply",
    "/system": "TEXT: the system prompt; without a text there is none",
    "/adapter": "NAME: speak with another adapter, or with the base alone; without a name it lists them",
    "/reset": "begin anew",
    "/help": "this list",
    QUIT: "end; so does Ctrl-D",
}


def once(voices: list[Voice], prompt: str, settings: Settings) -> None:
    """One reply of each voice on stdout, as it comes; several stand beneath their names.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped one.
    """
    for voice in voices:
        if len(voices) > 1:
            print(f"== {voice.name}", flush=True)
        notes = reply(voice, Conversation(), prompt, settings, write)
        print(flush=True)
        if "stopped" in notes:
            raise KeyboardInterrupt


def write(text: str) -> None:
    """Text as a model wrote it, less what a terminal would obey."""
    print(printable(text), end="", flush=True)


def reply(voice: Voice, conversation: Conversation, message: str, settings: Settings, show) -> list[str]:
    """Asks, shows the reply as it comes, and keeps it; returns what there is to note about it."""
    notes = []
    conversation.ask(message)
    said = ""
    try:
        ids, length, left_out = conversation.encode(voice.tokenizer, settings, voice.host.context)
        if left_out:
            notes.append(
                f"the context of {voice.host.context} tokens is full: the {left_out} oldest turns are left out"
            )
        said, stopped = voice.speak(ids, length, settings.temperature, show)
        notes += ["stopped"] if stopped else [] if said else ["an empty reply"]
    finally:
        conversation.answer(said)
    return notes


class Talk:
    """A conversation with one voice, or with two side by side, each with a history of its own."""

    def __init__(self, choir: Choir, voices: list[Voice], settings: Settings):
        self.choir, self.voices, self.settings = choir, voices, settings
        self.conversations = [Conversation() for _ in voices]
        self.console = Console(highlight=False)

    def run(self, stream: TextIO) -> None:
        """Takes messages and commands until they end."""
        self.console.print(
            Text(f"{' and '.join(voice.name for voice in self.voices)}: /help lists the commands", "dim")
        )
        keyboard = PromptSession() if stream.isatty() else None
        while True:
            try:
                line = self.typed(keyboard) if keyboard else next(stream, QUIT).strip()
                if line == QUIT:
                    return
                if line.startswith("/"):
                    self.obey(*line.split(maxsplit=1))
                elif line:
                    self.answer(line)
            except HfkitError as error:
                self.console.print(Text(printable(str(error)), "red"))
            except KeyboardInterrupt:  # just after a reply, or in a line that one thought better of
                if keyboard is None:
                    raise

    def typed(self, keyboard: PromptSession) -> str:
        """A line from the keyboard; Ctrl-D is `QUIT`."""
        names = dict.fromkeys(self.choir.on(self.voices[0].host))
        completer = NestedCompleter.from_nested_dict({**dict.fromkeys(COMMANDS), "/adapter": names})
        try:
            return keyboard.prompt("> ", completer=completer, complete_while_typing=False).strip()
        except EOFError:
            return QUIT

    def obey(self, command: str, given: str = "") -> None:
        """One of the commands.

        Raises:
            HfkitError: there is no such command, or what it was given makes no sense.
        """
        if command in ("/temperature", "/length"):
            kind = {"/temperature": float, "/length": int}[command]
            try:
                self.change(**{command[1:]: kind(given)})
            except ValueError as error:
                raise HfkitError(f"{command} {given}: expected {describe_type(kind)} after {command}") from error
        elif command == "/system":
            self.change(system=given or None)
        elif command == "/adapter":
            self.switch(given)
        elif command == "/reset":
            self.conversations = [Conversation() for _ in self.voices]
            self.note("begun anew")
        elif command == "/help":
            for name, text in COMMANDS.items():
                self.note(f"{name:<13}{text}")
        else:
            guess = nearest(command, COMMANDS)
            hint = f"did you mean {guess}?" if guess else "/help lists the commands"
            raise HfkitError(f"unknown command {command}; {hint}")

    def change(self, **changes) -> None:
        """Settings from now on."""
        self.settings = replace(self.settings, **changes)
        self.note(", ".join(f"{name} {value}" for name, value in changes.items()))

    def switch(self, name: str) -> None:
        """Another adapter of the first voice's base; the conversation goes on.

        Raises:
            HfkitError: there is none of that name.
        """
        voices = self.choir.on(self.voices[0].host)
        if name and name not in voices:
            raise HfkitError(f"no adapter {name!r}; there are: {', '.join(voices)} (--adapter loads more)")
        if name:
            self.voices[0] = voices[name]
        self.note(", ".join(f"[{one}]" if one == self.voices[0].name else one for one in voices))

    def note(self, text: str) -> None:
        """A line about the chat itself."""
        self.console.print(Text(printable(text), "dim"))

    def answer(self, message: str) -> None:
        """The reply of each voice to a message."""
        if len(self.voices) == 1:
            self.console.print(Text(f"{self.voices[0].name}: ", "bold"), end="")
            notes = reply(self.voices[0], self.conversations[0], message, self.settings, write)
            print(flush=True)
        else:
            notes = self.side_by_side(message)
        for text in dict.fromkeys(notes):
            self.note(f"({text})")

    def side_by_side(self, message: str) -> list[str]:
        """The replies in columns, one voice after the other; Ctrl-C stops the one that speaks and those after it."""
        table, columns = Table(expand=True), [Text() for _ in self.voices]
        for voice in self.voices:
            table.add_column(Text(voice.name), ratio=1)
        table.add_row(*columns)
        notes: list[str] = []
        with Live(table, console=self.console):
            for voice, conversation, column in zip(self.voices, self.conversations, columns, strict=True):
                notes += reply(
                    voice, conversation, message, self.settings, lambda text, to=column: to.append(printable(text))
                )
                if "stopped" in notes:
                    break
        return notes
