"""Finds the token ids of one response under a chat template: from the generation prompt to the end of its turn.

The response is rendered together with the messages before it. If the template then writes a prefix that differs from
the generation prompt (it opens the thinking, or moves the system text into the last user message), the response is
appended to the generation prompt, after which it is sampled. The result is compared with the message: ids that do not
match the response are never returned.
"""

import re
from collections.abc import Iterator

from hfkit.data.messages import Messages, RenderError, iter_strings, reasoning_of, squash
from hfkit.data.rendering import Rendered, Template, special_token_ids
from hfkit.data.turn_end import is_space, leading_special, turn_end

NOT_THE_REPLY = "whose trained tokens would not match its responses"
NO_THINKING = (
    "with a response without the thinking that the generation prompt opens (add <think>...</think>, or "
    'reasoning_content: "" for no thinking, or set chat_template or chat_template_kwargs)'
)
NO_MORE_THINKING = (
    "with thinking, which the generation prompt has closed (set chat_template_kwargs or chat_template, or remove it)"
)
NO_TOOL_CALLS = "with tool calls that the chat template does not render"
NO_TEXT_BESIDE_CALLS = "with text and tool calls, of which the chat template omits the text"
NOT_LOCATED = "with a response that cannot be located in the rendered text"
ASKING = ("user", "assistant", "system", "developer")
"""Roles whose message ends the assistant's turn; a tool's message follows calls, which may have another end marker."""
OPENED = re.compile(r"(<(?:think|thinking|thought|reasoning)>)\s*$")
CLOSED = re.compile(r"</(?:think|thinking|thought|reasoning)>")
PROMPT_CLOSED = re.compile(r"(</(?:think|thinking|thought|reasoning)>|<channel\|>)\s*$")
CLOSED_AT_ONCE = re.compile(r"\s*(<\w+>\s*</\w+>|<\|channel>thought\s*<channel\|>)\s*")
# A template may write tags, or channels and recipients between special tokens, before the text of a response.
HEADER = re.compile(r"<\|(?:channel|start)\|?>[\w=]*(?=<)|^to=\w+(?=<\|)|<[^<>]*>|\[/?[A-Z_]+\]|[▁Ġ]")


def encode_reply(
    template: Template, messages: Messages, prompt: Rendered | None = None, following: dict | None = None
) -> tuple[list[int], list[int]]:
    """Return the token ids before the last message, the assistant's, and those of the message and its turn's end.

    Args:
        prompt: the messages before it with the generation prompt, if already rendered.
        following: the message after it, for a template whose turns end with the marker of the next role.

    Raises:
        RenderError: the template rejects the messages, or changes the response.
    """
    before, message = messages[:-1], messages[-1]
    whole = template.render(messages)
    prompt = prompt or render_prompt(template, before, message, whole)
    if PROMPT_CLOSED.search(prompt.text) and (reasoning_of(message) or CLOSED.search(content_of(message))):
        raise RenderError(NO_MORE_THINKING)
    message = with_reasoning(message, whole.text.removeprefix(prompt.text))
    for ids, text in candidates(template, before, message, prompt, whole):
        body, end = split_end(template, ids)
        if not end:
            body, end = close(template, messages, text, following)
        if body is not None and is_reply(template, message, body, prompt.text):
            return prompt.ids, [*body, *end]
    names = call_names(message)
    if names and content_of(message) and all(name in squash(whole.text) for name in names):
        raise RenderError(NO_TEXT_BESIDE_CALLS)
    raise RenderError(NO_TOOL_CALLS if names else NOT_THE_REPLY)


def render_prompt(template: Template, before: Messages, message: dict, whole: Rendered) -> Rendered:
    """Return the rendered text before a response, with the generation prompt if there is one.

    Raises:
        RenderError: the text before the response cannot be found.
    """
    reason = RenderError(NOT_LOCATED)
    if before:
        try:
            return template.render(before, generation_prompt=True)
        except RenderError as error:
            reason = error
    head, found, _ = whole.text.rpartition(content_of(message).strip() or "\0")
    if not found:
        raise reason
    return Rendered(head, template.tokenize(head))


def content_of(message: dict) -> str:
    """Return the text of a message; "" if it has only tool calls."""
    return message.get("content") or ""


def with_reasoning(message: dict, text: str) -> dict:
    """Return a message with its reasoning moved into its content, if the template omitted it from the response."""
    reasoning = reasoning_of(message)
    if reasoning is None or squash(reasoning) in squash(text.replace(content_of(message).strip(), "")):
        return message
    return message | {"content": with_thought(message, reasoning)}


def with_thought(message: dict, thought: str) -> str:
    """Return the thinking and the text of a message, in the format of most models."""
    return f"<think>\n{thought.strip()}\n</think>\n\n{content_of(message).lstrip()}"


def candidates(
    template: Template, before: Messages, message: dict, prompt: Rendered, whole: Rendered
) -> Iterator[tuple[list[int], str]]:
    """Yield candidates for the ids and text after the generation prompt: as rendered, then as in the message."""
    content = content_of(message)
    text = after_prompt(before, prompt.text, whole.text)
    if text is not None:
        start = len(prompt.ids)
        is_prefix = whole.text.startswith(prompt.text) and whole.ids[:start] == prompt.ids
        yield whole.ids[start:] if is_prefix else template.tokenize(text, content), text
    opened, reasoning, header = OPENED.search(prompt.text), reasoning_of(message), ""
    if opened and (text is None or CLOSED.search(content)):
        if reasoning is not None and not CLOSED.search(content):
            content = with_thought(message, reasoning).replace("<think>", opened[1], 1)
        if content.lstrip().startswith(opened[1]):
            content = content.lstrip().removeprefix(opened[1]).removeprefix(prompt.text[opened.end(1) :])
        elif not CLOSED.search(content):
            raise RenderError(NO_THINKING)
        start = prompt.text[: opened.start(1)]
        if message.get("tool_calls") and whole.text.startswith(start):
            thought = content[: [*CLOSED.finditer(content)][-1].end()] if CLOSED.search(content) else content
            text = thought + "\n\n" + whole.text[len(start) :].lstrip()
            yield template.tokenize(text, content), text
    if message.get("tool_calls"):
        yield from after_closed_thinking(template, prompt, whole)
        return
    answer = CLOSED.split(content)[-1].strip()
    head, found, after = whole.text.rpartition(answer or "\0")
    is_alike = prompt.text.startswith(head.rstrip()) and text is None
    if not found or not (is_alike or CLOSED.search(content)):
        return
    if text is not None:  # the template omits the thinking
        plain = template.render([*before, {"role": "assistant", "content": answer}]).text
        header = plain.removeprefix(prompt.text).rpartition(answer)[0]
        header = "" if CLOSED.search(header) or not plain.startswith(prompt.text) else header
    yield template.tokenize(header + content + after, content), header + content + after


def after_closed_thinking(template: Template, prompt: Rendered, whole: Rendered) -> Iterator[tuple[list[int], str]]:
    """Yield the text after a generation prompt that closes the thinking, which the template writes only there."""
    same = (one == other for one, other in zip(prompt.ids, whole.ids, strict=False))
    start = next((index for index, is_same in enumerate(same) if not is_same), len(whole.ids))
    if CLOSED_AT_ONCE.fullmatch(template.tokenizer.decode(prompt.ids[start:])):
        yield whole.ids[start:], template.tokenizer.decode(whole.ids[start:])


def after_prompt(before: Messages, prompt: str, whole: str) -> str | None:
    """Return the rendered text after the generation prompt; None if the template does not write that prompt.

    If it writes another text before the last message, search for that message and the text after it instead.
    """
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    last = content_of(before[-1]).strip() if before else ""
    _, found, following = prompt.rpartition(last or "\0")
    _, found, text = whole.rpartition(found + following) if found and following else ("", "", "")
    return text if found else None


def split_end(template: Template, ids: list[int]) -> tuple[list[int], list[int]]:
    """Return the ids of a response without its end of turn, and the end of turn; [] if the template writes none.

    The rendered text ends with special tokens and white space. The turn ends with the first end token among them; the
    rest, such as a newline, is cut off, since a sampled response does not have it.
    """
    tokenizer, special = template.tokenizer, special_token_ids(template.tokenizer)
    start = len(ids)
    while start and (ids[start - 1] in special or is_space(tokenizer, ids[start - 1])):
        start -= 1
    tail = ids[start:]
    stop_token_ids = {turn_end(tokenizer, template.variables).ids[-1], tokenizer.eos_token_id}
    stop = next((index for index, token in enumerate(tail) if token in stop_token_ids), None)
    if stop is None:  # such as the end of a tool call
        found = leading_special(tokenizer, tail)
        stop = tail.index(found[-1]) if found else -1
    return ids[:start], tail[: stop + 1]


def close(
    template: Template, messages: Messages, text: str, following: dict | None
) -> tuple[list[int] | None, list[int]]:
    """Return the ids of a response that the template does not end, without later text, and the end of its turn.

    Returns:
        None instead of the ids if the text of the response is not found.
    """
    content, end = content_of(messages[-1]), turn_end(template.tokenizer, template.variables)
    head, found, _ = ("", "", "") if messages[-1].get("tool_calls") else text.rpartition(content.strip() or "\0")
    if not found and not messages[-1].get("tool_calls") and content.strip():
        return None, []
    text = head + found if found else text.rstrip()
    ids = [*end.ids]
    if end.is_next_role and following is not None and following["role"] not in ASKING:
        whole = template.render(messages).text
        marker = template.tokenize(template.render([*messages, following]).text[len(whole) :])
        ids = marker[:1] if marker and marker[0] in special_token_ids(template.tokenizer) else ids
    return template.tokenize(text, content.strip()), ids


def is_reply(template: Template, message: dict, body: list[int], prompt: str) -> bool:
    """Return whether decoded token ids match the message and contain no other text.

    White space is ignored, since templates trim it. Every template writes tool calls differently, so only their names
    and those texts in their arguments that need no quoting must occur.
    """
    tokenizer, content = template.tokenizer, content_of(message)
    found = squash(tokenizer.decode(body))
    round_trip = tokenizer.decode(tokenizer(content, add_special_tokens=False, split_special_tokens=True).input_ids)
    wanted = [squash(content), squash(round_trip)]
    if opened := OPENED.search(prompt):
        wanted = [text.removeprefix(opened[1]) for text in wanted]
    if calls := message.get("tool_calls"):
        arguments = iter_strings([call.get("function", call).get("arguments") for call in calls])
        names = call_names(message) + [text for text in arguments if text.isascii() and text.isalnum()]
        return any(text in found for text in wanted) and all(name in found for name in names)
    thought = squash(reasoning_of(message) or "")
    for text in wanted:
        if found.endswith(text):
            head = found.removesuffix(text)
            if not HEADER.sub("", head.replace(thought, "") if thought else head):
                return True
    return False


def call_names(message: dict) -> list[str]:
    """Return the names of the functions that a message calls, without white space."""
    return [squash(str(call.get("function", call).get("name", ""))) for call in message.get("tool_calls") or []]
