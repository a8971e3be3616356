"""Writes a chat format as a template of Ollama, in Go's `text/template` language."""

from hfkit.commands.export.chat_format import FIRST_USER, LAST_USER, OWN_TURN, ChatFormat

EACH_MESSAGE = "{{ range $index, $message := .Messages }}{{ $last := eq (len (slice $.Messages $index)) 1 }}"
THOUGHT = "<think>\n{{ .Thinking }}\n</think>\n\n"
"""The thinking of a response to be completed; Ollama finds the thinking in a model's output by these tags."""


def go_template(chat: ChatFormat | None, adds_bos: bool) -> str:
    """Return a chat format as a Go template over Ollama's values; without a format, the prompt alone.

    A response at the end of the messages is to be completed, so nothing follows it.

    Args:
        adds_bos: whether the tokenizer puts a BOS token before the text.
    """
    if chat is None:
        return "{{ .Prompt }}"
    head = literal(chat.start if adds_bos else chat.bos + chat.start)
    system = literal(chat.system[0]) + "{{ $.System }}" + literal(chat.system[1])
    user = literal(chat.user[0])
    if chat.system_at == OWN_TURN:
        head += system if chat.always_system else when("$.System", system)
    elif chat.system_at == FIRST_USER:
        head += "{{ $first := true }}"
        user += when("and $first $.System", system) + "{{ $first = false }}"
    elif chat.system_at == LAST_USER:
        user += when("and $last $.System", system)
    user += "{{ .Content }}" + literal(chat.user[1]) + when("$last", generation_prompt(chat))
    reply = literal(chat.assistant[0])
    if chat.thinking_prompts is not None or "<think>" in chat.prompt:
        reply += when("and $last .Thinking", THOUGHT)
    reply += "{{ .Content }}" + when("not $last", literal(chat.assistant[1]))
    messages = when('eq .Role "user"', user) + when('eq .Role "assistant"', reply)
    return head + EACH_MESSAGE + messages + "{{ end }}"


def generation_prompt(chat: ChatFormat) -> str:
    """Return the generation prompt; it depends on the request's `think` if the chat template has a variable for it."""
    if chat.thinking_prompts is None:
        return literal(chat.prompt)
    on, off = map(literal, chat.thinking_prompts)
    chosen = when("$.Think", on) + when("not $.Think", off)
    return when("$.IsThinkSet", chosen) + when("not $.IsThinkSet", literal(chat.prompt))


def when(condition: str, text: str) -> str:
    """Return a text that is written only if a condition holds."""
    return f"{{{{ if {condition} }}}}{text}{{{{ end }}}}"


def literal(text: str) -> str:
    """Return a text escaped for a Go template, in which two braces begin an action."""
    return text.replace("{{", '{{ "{{" }}')
