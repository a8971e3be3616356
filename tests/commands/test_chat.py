"""`hfkit chat`: driven through a real terminal, through pipes, and with paths that hold nothing to talk with."""

import io
import json
import os
import pty
import re
import select
import shutil
import sys
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import python_path
from forks import Fork
from transformers import GenerationConfig

from hfkit.cli import main
from hfkit.commands.chat.conversation import Conversation, Settings
from hfkit.commands.chat.models import LoadedModels
from hfkit.commands.chat.session import ChatSession
from hfkit.core.console import printable
from hfkit.core.errors import HfkitError
from hfkit.models.loading import load_policy
from hfkit.models.tokenizers import load_tokenizer

ROOT = Path(__file__).parents[2]
PATIENCE = 240  # times that nothing comes for half a second, before a process is given up on
# The terminal becomes the controlling one, so that Ctrl-C typed there is the signal.
CHAT = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from hfkit.cli import main
sys.exit(main())
"""
CODES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_=>])")


class Terminal:
    """A program on a pseudo-terminal: what it writes is gathered, what is typed is sent."""

    def __init__(self, *words: str):
        self.ours, theirs = pty.openpty()
        env = os.environ | {
            "PYTHONPATH": python_path(ROOT),
            "TERM": "xterm",
            "COLUMNS": "100",
            "PROMPT_TOOLKIT_NO_CPR": "1",
        }
        self.process = Fork(CHAT, *words, env=env, streams=[theirs] * 3)
        os.close(theirs)
        self.text, self.seen = "", 0

    def type(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def enter(self, line: str) -> None:
        self.type(line + "\r")

    def read(self) -> bool:
        """Takes what has come, waiting for it half a second at most; whether there was any."""
        if not select.select([self.ours], [], [], 0.5)[0]:
            return False
        with suppress(OSError):  # it is gone
            self.text += CODES.sub("", os.read(self.ours, 65536).decode(errors="replace"))
            return True
        return False

    def wait(self, pattern: str) -> re.Match:
        """The next match of a pattern in what is written from here on."""
        patience = PATIENCE
        while not (match := re.compile(pattern, re.S).search(self.text, self.seen)):
            assert patience and self.process.poll() is None, f"no {pattern!r} in:\n{self.text[self.seen :]}"
            patience -= not self.read()
        self.seen = match.end()
        return match

    def end(self) -> int:
        patience = PATIENCE
        while patience and self.process.poll() is None:
            patience -= not self.read()
        return self.process.wait(1)


@contextmanager
def talking(*words: object):
    terminal = Terminal("chat", *map(str, words))
    try:
        yield terminal
    finally:
        terminal.process.kill()
        os.close(terminal.ours)


def test_a_chat_in_a_terminal(sft_dir, ppo_dir):
    with talking(sft_dir, "--adapter", ppo_dir, "--length", 200, "--temperature", 1000) as terminal:
        terminal.wait("sft: /help lists the commands")
        terminal.wait(">")
        terminal.enter("/temperature 0")
        terminal.wait("temperature 0")
        terminal.enter("/lenght 8")
        terminal.wait("did you mean /length?")
        terminal.enter("/length 8")
        terminal.wait("length 8")
        terminal.enter("/reset")
        terminal.wait("conversation cleared")
        terminal.type("a line thought better of\x03")
        terminal.enter("/adapter ppo")
        terminal.wait(r"sft, \[ppo\], base")
        terminal.enter("What does Ann like?")
        terminal.wait(r"ppo: \S+")
        terminal.wait(">")
        terminal.type("\x04")
        assert terminal.end() == 0


@pytest.mark.parametrize("typed", [True, False], ids=["keyboard", "pipe"])
def test_ctrl_c_between_a_reply_and_the_next_line_ends_a_pipe_alone(monkeypatch, typed):
    stream = io.StringIO("Hello\n")
    stream.isatty = lambda: typed
    lines = iter([KeyboardInterrupt, "", "Hello", KeyboardInterrupt, EOFError])

    def prompt(*args, **kwargs) -> str:
        line = next(lines)
        if line in (KeyboardInterrupt, EOFError):
            raise line
        return line

    def late(session: ChatSession, message: str) -> None:
        answered.append(message)
        raise KeyboardInterrupt

    answered = []
    monkeypatch.setattr("hfkit.commands.chat.session.PromptSession", lambda: SimpleNamespace(prompt=prompt))
    monkeypatch.setattr(ChatSession, "answer", late)
    session = ChatSession(
        SimpleNamespace(models_on=lambda base: {}), [SimpleNamespace(name="sft", base=None)], Settings()
    )
    with nullcontext() if typed else pytest.raises(KeyboardInterrupt):
        session.run(stream)
    assert answered == ["Hello"] and (not typed or next(lines, None) is None)


@pytest.mark.slow
def test_ctrl_c_stops_a_reply_and_not_the_program(base_dir, tmp_path):
    """What ends this model's responses is a token that it never saw: they are longer than a terminal takes unread."""
    folder = shutil.copytree(base_dir, tmp_path / "base", ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 100_000}))
    tokenizer = load_tokenizer(str(folder))
    tokenizer.eos_token = "<|user|>"
    tokenizer.save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
    with talking(folder, "--length", 50_000, "--temperature", 0) as terminal:
        terminal.wait("base: /help lists the commands")
        terminal.enter("What does Ann like?")
        terminal.wait(r"base: +\S")
        terminal.type("\x03")
        terminal.wait(r"\(stopped\)")
        terminal.enter("/quit")
        assert terminal.end() == 0


@pytest.mark.slow
def test_two_models_side_by_side_in_a_terminal(sft_dir, base_dir):
    with talking(sft_dir, "--against", base_dir, "--length", 8) as terminal:
        terminal.wait("sft and pretrain: /help")
        terminal.enter("What does Ann like?")
        terminal.wait(r"sft +┃ pretrain")
        terminal.wait(r"│ \S+.*│ \S+.*└")
        terminal.enter("/quit")
        assert terminal.end() == 0


@pytest.mark.parametrize("against", [False, True])
def test_a_prompt_is_answered_on_stdout_alone(capsys, sft_dir, base_dir, against):
    words = ["chat", str(sft_dir), "--prompt", "What does Ann like?", "--length", "8", "--temperature", "1"]
    words += ["--against", str(base_dir)] if against else []
    replies = []
    for _ in range(2):
        assert main(words) == 0
        replies.append(capsys.readouterr())
    assert replies[0] == replies[1]  # the same seed
    assert replies[0].err == "" and replies[0].out.strip()
    assert re.findall("^== (.*)$", replies[0].out, re.M) == (["sft", "pretrain"] if against else [])


def test_lines_from_a_pipe_are_turns(capsys, sft_dir, ppo_dir, monkeypatch, tmp_path):
    lines = tmp_path / "lines"
    lines.write_text(
        "What does Ann like?\n/adapter nobody\n/adapter base\n/system Be brief.\n\nAnd Bob?\n/temperature cold\n"
    )
    with lines.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert main(["chat", str(sft_dir), "--adapter", str(ppo_dir), "--length", "4"]) == 0
    reported = capsys.readouterr().out
    assert "no adapter 'nobody': choose from sft, ppo, base" in reported
    assert "sft, ppo, [base]" in reported and "\nbase: " in reported
    assert "/temperature cold: expected number after /temperature" in reported


def logits_of(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits


@pytest.mark.slow
def test_adapters_of_one_base_share_it_and_stay_what_they_are(sft_dir, ppo_dir, base_dir):
    loaded = LoadedModels()
    sft = loaded.add(str(sft_dir))
    ppo = loaded.add_adapter(str(ppo_dir), sft)
    assert sft.base is ppo.base
    models = loaded.models_on(sft.base)
    assert [*models] == ["sft", "ppo", "base"]
    ids = sft.tokenizer("What does Ann like?").input_ids
    folders = {"sft": sft_dir, "ppo": ppo_dir, "base": base_dir}
    for name in ("sft", "ppo", "base", "sft"):  # and back
        with models[name].active_adapter():
            ours = logits_of(models[name].base.model, ids)
        assert torch.equal(ours, logits_of(load_policy(str(folders[name]))[0], ids))


def test_variables_that_the_chat_template_does_not_read_are_warned_of(sft_dir, capsys):
    for given, is_warned in (("{}", False), ('{"nothing": 1}', True)):
        assert main(["chat", str(sft_dir), "--prompt", "Hi", "--length", "2", "--chat_template_kwargs", given]) == 0
        assert ("the chat template has no variable nothing" in capsys.readouterr().err) == is_warned


def test_a_stream_is_the_reply(sft_dir):
    model, pieces = LoadedModels().add(str(sft_dir)), []
    model.tokenizer.pad_token = None  # a single response needs none
    torch.manual_seed(0)
    ids = model.tokenizer("What does Ann like?").input_ids
    text, stopped = model.generate(ids, 24, 1000, pieces.append)
    assert len(pieces) > 1 and "".join(pieces).strip() == text and not stopped


def test_ctrl_c_keeps_the_conversation(sft_dir):
    model, pieces = LoadedModels().add(str(sft_dir)), []

    def interrupted(text: str) -> None:
        pieces.append(text)
        if len(pieces) == 2:
            raise KeyboardInterrupt

    torch.manual_seed(0)  # a response of more than two words
    text, stopped = model.generate(model.tokenizer("What does Ann like?").input_ids, 24, 1000, interrupted)
    assert stopped and text.startswith("".join(pieces).strip())


def test_history_goes_along_and_the_oldest_turns_give_way(tokenizer):
    conversation, settings = Conversation(), Settings(length=8, system="Be brief.")
    for number in range(4):
        conversation.add_question(f"What is number {number}?")
        conversation.add_reply(f"It is {number}.")
    conversation.add_question("And the last?")
    ids, length, left_out = conversation.encode(tokenizer, settings, None)
    whole = tokenizer.decode(ids)
    assert (length, left_out) == (8, 0)
    assert all(part in whole for part in ("Be brief.", "number 0?", "It is 3.", "And the last?"))
    ids, length, left_out = conversation.encode(tokenizer, settings, len(ids) - 1)
    assert (length, left_out) == (8, 2)
    shorter = tokenizer.decode(ids)
    assert "Be brief." in shorter and "number 0?" not in shorter and "number 1?" in shorter
    with pytest.raises(HfkitError, match="the model's context is 5: write a shorter one"):
        conversation.encode(tokenizer, settings, 5)


def test_an_empty_reply_takes_the_question_back():
    conversation = Conversation()
    conversation.add_question("Who?")
    conversation.add_reply("")
    assert conversation.messages == []


def test_without_a_chat_template_the_prompt_is_the_text(tokenizer):
    conversation, template = Conversation(), tokenizer.chat_template
    conversation.add_question("Ann likes")
    try:
        tokenizer.chat_template = None
        assert conversation.encode(tokenizer, Settings(), None)[0] == tokenizer("Ann likes").input_ids
        with pytest.raises(HfkitError, match="the message is empty"):
            Conversation([{"role": "user", "content": ""}]).encode(tokenizer, Settings(), None)
        with pytest.raises(HfkitError, match="no chat template, so it cannot use a system prompt"):
            conversation.encode(tokenizer, Settings(system="Be brief."), None)
    finally:
        tokenizer.chat_template = template


def test_a_reply_cannot_command_the_terminal():
    hostile = "a\x1b]0;owned\x07b\x1b[2Jc\rd\x9b31me\u202ef\x00"
    assert printable(hostile) == r"a\x1b]0;owned\x07b\x1b[2Jc\rd\x9b31me\u202ef\x00"


def test_a_run_that_is_not_done_names_its_newest_checkpoint(sft_dir, tmp_path, capsys):
    begun = tmp_path / "begun"
    for step in (9, 10):
        shutil.copytree(
            sft_dir, begun / f"checkpoint-{step}", ignore=shutil.ignore_patterns("checkpoint-*", "hfkit.json")
        )
    (begun / "hfkit.json").write_text('{"stage": "sft", "status": "running"}')
    assert main(["chat", str(begun), "--prompt", "Who?"]) == 1
    checkpoint = re.search(r"finish it first, or name its checkpoint: (\S+)", capsys.readouterr().err)[1]
    assert checkpoint == str(begun / "checkpoint-10")
    assert main(["chat", checkpoint, "--prompt", "Who?", "--length", "3"]) == 0


@pytest.mark.parametrize(
    ("path", "reported"),
    [
        ("reward", "is a classifier, such as a reward model, and cannot generate"),
        ("tokenizer", "is a tokenizer: name a model"),
        ("", r"holds no model: name one of its runs: .*/ppo"),
        ("empty", "holds no model: it has no config.json or adapter_config.json"),
        ("begun", r"a run that is not done \(running\): finish it first"),
        ("nowhere", "no such folder, and not a Hub id"),
    ],
)
def test_what_cannot_be_talked_with_is_reported(runs, ppo_dir, tmp_path, capsys, path, reported):
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "hfkit.json").write_text('{"stage": "sft", "status": "running"}')
    folder = tmp_path / path if path in ("empty", "begun", "nowhere") else runs / path
    assert main(["chat", str(folder), "--prompt", "Who?"]) == 1
    captured = capsys.readouterr()
    assert re.search(reported, captured.err) and "Traceback" not in captured.err and captured.out == ""


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--temperature", "-1"], "temperature: -1.0 -> expected a number of at least 0"),
        (["--length", "0"], "length: 0 -> expected a number of tokens, at least 1"),
        (["--adapter", "{base}"], "is a full model, not an adapter: show it side by side with --against"),
        (["--adapter", "user/nowhere"], "user/nowhere: neither a folder nor a model in the Hub's cache"),
    ],
)
def test_what_makes_no_sense_is_reported(sft_dir, base_dir, capsys, words, reported):
    words = [word.format(base=base_dir) for word in words]
    assert main(["chat", str(sft_dir), *words, "--prompt", "Who?"]) == 1
    assert reported in capsys.readouterr().err
