"""Renders messages with a tokenizer's chat template, to text and to token ids.

Text in rows stays text: the text of a special token in a message cannot end the message or begin another one.
"""

import datetime
import inspect
import re
from dataclasses import dataclass, field
from functools import cache

from transformers import PreTrainedTokenizerBase

from hfkit.core.console import printable_line
from hfkit.core.limits import load_json
from hfkit.data.messages import (
    Messages,
    RenderError,
    iter_strings,
    map_strings,
    name_reasoning,
    with_content,
    with_json_arguments,
)
from hfkit.data.template_limits import UnusableTemplateError, with_remedy
from hfkit.data.template_source import cached_by_template, change_templates, template_fault, templates_of, variables_in

# Transformers 5.20 and later can tokenize the text of special tokens in messages as plain characters.
SANITIZES = "sanitize_control_tokens" in inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
MATCHES_NOTHING = r"[^\s\S]"
REASON = 300
"""Maximum characters of a template's error message."""
TEMPLATE_KWARGS = "chat_template_kwargs"
"""The key for variables of the chat template in a tokenizer's config, in a stage's config and in a row."""

GIVEN_VARIABLES = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
"""Names in templates that Transformers sets."""
TODAY = "strftime_now"
"""The function with which templates write today's date; as a variable, a date that replaces today's."""
TODAY_CALL = re.compile(TODAY + r"""\(\s*(['"])(.{0,200}?)\1\s*\)""")


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation: the template's text and its token ids."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class Template:
    """The chat template of a tokenizer with the tools and variables of one conversation."""

    tokenizer: PreTrainedTokenizerBase
    tools: list[dict] | None = None
    variables: dict = field(default_factory=dict)

    def render(self, messages: Messages, *, generation_prompt: bool = False) -> Rendered:
        """Return the rendered messages; no messages give no tokens.

        Arguments of tool calls are mappings, or JSON if the template accepts only text. A message without
        content, such as one with only tool calls, has "" instead.

        Raises:
            RenderError: the template rejects the messages.
        """
        if not messages:
            return Rendered("", [])
        options = {**template_kwargs(self.tokenizer), **self.variables, "add_generation_prompt": generation_prompt}
        if generation_prompt and (header := missing_header(self.tokenizer)):
            rendered = self.render(messages)
            return Rendered(rendered.text + header, rendered.ids + self.tokenize(header))
        messages = with_content(messages)
        text_only = with_json_arguments(messages)
        try:
            rendered = self._apply(messages, options)
        except RenderError:
            if text_only == messages:
                raise
            return self._apply(text_only, options)
        calls = [call.get("function", call) for message in messages for call in message.get("tool_calls") or []]
        if any(call.get("arguments") and str(call["arguments"]) in rendered.text for call in calls):
            return self._apply(text_only, options)  # the template wrote a mapping in Python's syntax
        return rendered

    def _apply(self, messages: Messages, options: dict) -> Rendered:
        tokenizer, tools, messages = self.tokenizer, self.tools, [*map(name_reasoning, messages)]
        if reads_parts(tokenizer):
            messages = [message | {"content": text_part(message.get("content") or "")} for message in messages]
        has_special = any(map(special_token_pattern(tokenizer).search, iter_strings([messages, tools])))
        if has_special:
            messages, tools = escape_special_tokens(tokenizer, [messages, tools])
        try:
            text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **options)
            if not (has_special and SANITIZES):
                return Rendered(text, self.tokenize(text))
            options = {**options, "sanitize_control_tokens": True, "return_dict": False}
            return Rendered(text, tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, **options))
        except UnusableTemplateError as error:
            raise named_fault(tokenizer.name_or_path, error) from error
        except Exception as error:  # a template is code
            raise RenderError(f"rejected by the chat template: {shortened(error)}") from error

    def tokenize(self, text: str, literal: str = "") -> list[int]:
        """Return the token ids of text that the template wrote.

        Args:
            literal: a part of the text in which special tokens are read as plain characters.
        """
        if literal and special_token_pattern(self.tokenizer).search(literal) and literal in text:
            before, _, after = text.rpartition(literal)
            plain = self.tokenizer(literal, add_special_tokens=False, split_special_tokens=True).input_ids
            return [*self.tokenize(before), *plain, *self.tokenize(after)]
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []


def named_fault(path: str, error: UnusableTemplateError) -> UnusableTemplateError:
    """Return an error with the name of the file or model that has the chat template."""
    return UnusableTemplateError(f"the chat template{f' of {path}' if path else ''} {with_remedy(error)}")


def shortened(error: Exception) -> str:
    """Return the message of an error, on one line of at most 300 characters."""
    text = str(error) or type(error).__name__
    return printable_line(text[:REASON]) + ("..." if len(text) > REASON else "")


def text_part(text: str) -> list[dict]:
    """Return a text as message content in parts."""
    return [{"type": "text", "text": text}]


@cached_by_template
def reads_parts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a template reads only message content in parts, like those of some vision models."""
    answer, texts = "hfkit7", []
    for content in (answer, text_part(answer)):
        try:
            texts.append(tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False))
        except UnusableTemplateError as error:
            raise named_fault(tokenizer.name_or_path, error) from error
        except Exception:  # a template is code
            texts.append("")
    return answer not in texts[0] and answer in texts[1]


def require_usable(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Validate the chat templates of a tokenizer by rendering a message.

    Raises:
        UnusableTemplateError: a template is not Jinja, or exceeds a limit.
    """
    if not tokenizer.chat_template:
        return
    for template in templates_of(tokenizer):
        if fault := template_fault(template):
            raise UnusableTemplateError(f"the chat template of {path} {fault}")
    try:
        reads_parts(tokenizer)
    except UnusableTemplateError as error:
        raise named_fault(path, error.__cause__) from error


@cached_by_template
def missing_header(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the header of responses that a template does not write as a generation prompt; "" if it writes one."""
    probe, user, answer = Template(tokenizer), {"role": "user", "content": "Hi"}, "hfkit7"
    try:
        prompt = probe._apply([user], {"add_generation_prompt": False}).text
        if probe._apply([user], {"add_generation_prompt": True}).text != prompt:
            return ""
        whole = probe._apply([user, {"role": "assistant", "content": answer}], {"add_generation_prompt": False}).text
    except RenderError:
        return ""
    header, found, _ = whole.removeprefix(prompt).partition(answer)
    return header.rstrip(" ") if found and whole.startswith(prompt) else ""


def template_kwargs(tokenizer: PreTrainedTokenizerBase) -> dict:
    """Return the variables that a tokenizer passes to its template; they are saved and loaded with it."""
    return tokenizer.init_kwargs.get(TEMPLATE_KWARGS) or {}


def set_template_kwargs(tokenizer: PreTrainedTokenizerBase, variables: dict | None) -> None:
    """Add variables of the template for every conversation that the tokenizer renders.

    Raises:
        ValueError: `strftime_now` is not a date.
    """
    variables = {**(variables or {})}
    if TODAY in variables:
        pin_date(tokenizer, str(variables.pop(TODAY)))
    if variables:
        tokenizer.init_kwargs[TEMPLATE_KWARGS] = {**template_kwargs(tokenizer), **variables}


def pin_date(tokenizer: PreTrainedTokenizerBase, day: str) -> None:
    """Replace today's date in a tokenizer's chat templates with a date, YYYY-MM-DD, wherever the tokenizer is used.

    Raises:
        ValueError: it is not a date.
    """
    date = datetime.date.fromisoformat(day)

    def pinned(template: str) -> str:
        text = TODAY_CALL.sub(lambda call: repr(date.strftime(call[2])), template)
        return text if text == template else f"{{# {TODAY}: {day} #}}{text}"

    change_templates(tokenizer, pinned)


def writes_today(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template writes today's date into a conversation."""
    marker = "hfkit-today"
    marked = TODAY_CALL.sub(repr(marker), tokenizer.get_chat_template())
    variables = {"chat_template": marked}
    try:
        return marker in Template(tokenizer, variables=variables).render([{"role": "user", "content": "Hi"}]).text
    except RenderError:
        return False


def template_variables(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return the names of the variables that users can set in a tokenizer's chat templates."""
    texts = templates_of(tokenizer)
    found = set().union(*map(variables_in, texts))
    today = {TODAY} if any(TODAY in text for text in texts) else set()
    return (found - GIVEN_VARIABLES - {*tokenizer.special_tokens_map}) | today


def variables_of(row: dict) -> dict:
    """Return the template variables of a row, from a mapping or its JSON.

    Raises:
        RenderError: they are neither a mapping nor JSON.
    """
    given = row.get(TEMPLATE_KWARGS) or {}
    try:
        variables = load_json(given) if isinstance(given, str) else given
    except ValueError:
        variables = None
    if not isinstance(variables, dict):
        raise RenderError(f"{TEMPLATE_KWARGS} that are not a mapping")
    return {name: value for name, value in variables.items() if value is not None}  # Arrow adds nulls


@cache
def special_token_pattern(tokenizer: PreTrainedTokenizerBase | None) -> re.Pattern:
    """Return a pattern for the texts of a tokenizer's special tokens; for None, a pattern that matches nothing."""
    tokens = [] if tokenizer is None else tokenizer.added_tokens_decoder.values()
    texts = [token.content for token in tokens if token.special]
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or MATCHES_NOTHING)


@cache
def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of a tokenizer's special tokens."""
    added = [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]
    return frozenset([*added, *tokenizer.all_special_ids])


def escape_special_tokens(tokenizer: PreTrainedTokenizerBase, value: object) -> object:
    """Return strings, in lists and mappings of any depth, with special tokens made harmless.

    They are unchanged if Transformers sanitizes them. Before 5.20, a space is inserted: `< |im_end|>`.
    """
    if SANITIZES:
        return value
    return map_strings(value, lambda text: special_token_pattern(tokenizer).sub(break_token, text))


def break_token(token: re.Match) -> str:
    """Return the text of a special token with a space after its first character."""
    return f"{token[0][:1]} {token[0][1:]}"
