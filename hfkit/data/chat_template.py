"""Encodes conversations to token ids, in the same way for SFT, reward models, PPO and chat.

A response is the text after the generation prompt, up to and including the end of its turn. Its ids are the same
whether it comes from a dataset or from sampling, so in PPO a reward model scores the sequences it was trained on.
"""

from transformers import PreTrainedTokenizerBase

from hfkit.data.messages import Messages, RenderError, as_messages, as_reply, is_trained
from hfkit.data.rendering import Template, escape_special_tokens, reads_parts, special_token_ids
from hfkit.data.reply_tokens import encode_reply
from hfkit.data.template_source import cached_by_template
from hfkit.data.turn_end import ANSWER, turn_end

Sequence = tuple[list[int], list[bool]]
"""Token ids, and a mask of the trained ones."""

NO_TEMPLATE = "messages need a chat template: set chat_template"


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    tools: list[dict] | None = None,
    variables: dict | None = None,
) -> list[int]:
    """Return the token ids of a prompt, including the generation prompt.

    Args:
        tools: JSON schemas of functions, for the template.
        variables: variables of the template, in addition to those of the tokenizer.

    Raises:
        RenderError: there is no chat template for messages, the template rejects the messages, or the last message is
            the assistant's.
    """
    messages = as_messages(prompt)
    if not isinstance(prompt, str) and not tokenizer.chat_template:
        raise RenderError(NO_TEMPLATE)
    if messages and messages[-1]["role"] == "assistant":
        raise RenderError("with an assistant message at the end of the prompt")
    if tokenizer.chat_template:
        ids = Template(tokenizer, tools, variables or {}).render(messages, generation_prompt=True).ids
        if messages and not ids:
            raise RenderError("rendered as an empty text by the chat template")
        return ids
    ids = _tokenize(tokenizer, prompt)
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def split_conversation(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    reply: str | Messages,
    tools: list[dict] | None = None,
    variables: dict | None = None,
    limit: int | None = None,
) -> list[Sequence]:
    """Return the sequences of a conversation, such that each response follows the prompt that it is sampled after.

    There is one sequence, unless the template renders a message differently when others follow it: then a response
    starts a new sequence if its prompt does not continue the last one. The mask covers every assistant message, also in
    the prompt, with the tokens that end its turn, except messages with weight 0. Tokens after the last one are cut off,
    since a sampled response does not have them.

    Args:
        tools: JSON schemas of functions, for the template.
        variables: variables of the template, in addition to those of the tokenizer.
        limit: number of tokens after which the mask covers only the last message. Each message is rendered together
            with all before it, so this saves most of the time on a long conversation that will be cut.

    Raises:
        RenderError: the template rejects the messages, or renders a response as another text.
    """
    if not tokenizer.chat_template:
        prompt_ids = encode_prompt(tokenizer, prompt)
        if not isinstance(reply, str):
            raise RenderError(NO_TEMPLATE)
        reply_ids = [*_tokenize(tokenizer, reply, add_special_tokens=False), tokenizer.eos_token_id]
        return [(prompt_ids + reply_ids, [False] * len(prompt_ids) + [True] * len(reply_ids))]
    messages, template = as_messages(prompt) + as_reply(reply), Template(tokenizer, tools, variables or {})
    if all(message["role"] != "assistant" for message in messages):
        template.render(messages)
        raise RenderError("no assistant message")
    indices = [index for index, message in enumerate(messages) if is_trained(message)]
    if not indices:
        raise RenderError("with no response to train on (weight: 0)")
    sequences: list[Sequence] = []
    while indices:
        index = indices.pop(0)
        following = messages[index + 1] if index + 1 < len(messages) else None
        _join(sequences, *encode_reply(template, messages[: index + 1], following=following))
        if limit is not None and indices and len(sequences[-1][0]) >= limit:
            following = messages[indices[-1] + 1] if indices[-1] + 1 < len(messages) else None
            prompt_ids, reply_ids = encode_reply(template, messages[: indices[-1] + 1], following=following)
            ids, mask = sequences[-1]
            if prompt_ids[: len(ids)] == ids:  # tokens that are cut off need no mask
                unmasked = [False] * (len(prompt_ids) + len(reply_ids) - len(ids))
                return [*sequences[:-1], (prompt_ids + reply_ids, mask + unmasked)]
            limit = None
    return sequences


def _join(sequences: list[Sequence], prompt_ids: list[int], reply_ids: list[int]) -> None:
    """Add a response to the last sequence if its prompt begins with that sequence, else as a new sequence."""
    ids = prompt_ids + reply_ids
    before, mask = sequences[-1] if sequences else ([], [])
    if sequences and prompt_ids[: len(before)] == before:
        sequences.pop()
    else:
        mask = []
    sequences.append((ids, [*mask, *[False] * (len(prompt_ids) - len(mask)), *[True] * len(reply_ids)]))


def encode_replies(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    replies: list[str | Messages],
    tools: list[dict] | None = None,
    variables: dict | None = None,
) -> list[list[int]]:
    """Return the token ids of a prompt with each of several responses, as in the last sequence of `split_conversation`.

    Raises:
        RenderError: as `split_conversation`.
    """
    return [ids for ids, _ in replies_and_spans(tokenizer, prompt, replies, tools, variables)]


def replies_and_spans(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    replies: list[str | Messages],
    tools: list[dict] | None = None,
    variables: dict | None = None,
) -> list[tuple[list[int], list[int]]]:
    """Return the result of `encode_replies`, each with the spans of the assistant's messages in the response.

    The spans are indices of tokens, [begin, end, begin, end, ...]. They leave out messages before the last one that
    have weight 0, or that the template renders differently when others follow them.

    Raises:
        RenderError: as `split_conversation`.
    """
    if not tokenizer.chat_template:
        start = len(encode_prompt(tokenizer, prompt))
        sequences = [split_conversation(tokenizer, prompt, reply)[0][0] for reply in replies]
        return [(ids, [start, len(ids)]) for ids in sequences]
    template, messages, rendered = Template(tokenizer, tools, variables or {}), as_messages(prompt), None
    rows = []
    for reply in map(as_reply, replies):
        conversation = messages + reply
        while conversation and conversation[-1]["role"] != "assistant":
            conversation = conversation[:-1]
        if not conversation:
            raise RenderError("no assistant message")
        is_next = messages and len(conversation) == len(messages) + 1
        if is_next and rendered is None and messages[-1]["role"] != "assistant":
            rendered = template.render(messages, generation_prompt=True)
        prompt_ids, reply_ids = encode_reply(template, conversation, rendered if is_next else None)
        ids, spans = prompt_ids + reply_ids, []
        for index in range(len(messages), len(conversation) - 1):
            if is_trained(conversation[index]):
                before, turn = encode_reply(template, conversation[: index + 1], following=conversation[index + 1])
                if ids[: len(before) + len(turn)] == before + turn:
                    spans += [len(before), len(before) + len(turn)]
        rows.append((ids, [*spans, len(prompt_ids), len(ids)]))
    return rows


def encode_sampled(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    reply: str,
    tools: list[dict] | None = None,
    variables: dict | None = None,
) -> list[int]:
    """Return the token ids of a prompt with the text of a sampled response, as in `encode_replies`.

    A sampled response can be invalid as a row, such as truncated thinking: then the ids are those of the generation
    prompt, the text, and the end of the turn.

    Raises:
        RenderError: the template rejects the prompt.
    """
    try:
        return encode_replies(tokenizer, prompt, [reply], tools, variables)[0]
    except RenderError:
        prompt_ids = encode_prompt(tokenizer, prompt, tools, variables)
        return [
            *prompt_ids,
            *_tokenize(tokenizer, reply, add_special_tokens=False),
            *turn_end(tokenizer, variables).ids,
        ]


def turn_end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids that end a sampled response: end-of-text, end of turn, and end of a turn of tool calls."""
    ends = [turn_end(tokenizer).ids[-1], *call_end_ids(tokenizer)]
    return [*dict.fromkeys([tokenizer.eos_token_id, *ends])]


@cached_by_template
def call_end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token that ends a turn of tool calls, such as `<|observation|>`; [] if the template has no tools."""
    call = {"type": "function", "id": "call00000", "function": {"name": ANSWER, "arguments": {"text": "Hi"}}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    result = {"role": "tool", "name": ANSWER, "tool_call_id": "call00000", "content": "Hi"}
    parameters = {"type": "object", "properties": {"text": {"type": "string", "description": "Hi"}}}
    tool = {"type": "function", "function": {"name": ANSWER, "description": "Hi", "parameters": parameters}}
    try:
        ids = encode_reply(Template(tokenizer, [tool]), messages, following=result)[1]
    except RenderError:
        return []
    return ids[-1:] if ids[-1] in special_token_ids(tokenizer) else []


def end_as_trained(
    tokenizer: PreTrainedTokenizerBase, reply: list[int], stop_token_ids: list[int], variables: dict | None = None
) -> list[int]:
    """Return a sampled response with its stop token replaced by the end of a turn.

    A model with several stop tokens may sample any of them; a reward model was trained only on the end of a turn.
    """
    if not tokenizer.chat_template or reply[-1] not in stop_token_ids:
        return reply
    end = turn_end(tokenizer, variables).ids
    ends = {end[-1], *call_end_ids(tokenizer)}
    return reply if reply[-1] in ends else [*reply[:-1], *end]


def reply_ending(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the text that ends a conversation after its last response, as reward models read it.

    Returns:
        None if plain Transformers renders the text up to the response differently from `encode_replies`.
    """
    if not tokenizer.chat_template or reads_parts(tokenizer):
        return None
    prompt, reply = [{"role": "user", "content": "Hi"}], {"role": "assistant", "content": ANSWER}
    try:
        text = Template(tokenizer).render([*prompt, reply]).text
        wanted = encode_replies(tokenizer, prompt, [[reply]])[0]
    except RenderError:
        return None
    head, found, tail = text.rpartition(ANSWER)
    stop = tokenizer.convert_ids_to_tokens(wanted[-1])
    before, written, _ = tail.partition(stop)
    ending = before + stop if written else stop
    return ending if tokenizer(head + found + ending, add_special_tokens=False).input_ids == wanted else None


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a plain text, closed by the end-of-text token."""
    ids = tokenizer(text).input_ids
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str, **options) -> list[int]:
    """Return the token ids of a text without a template, reading special tokens in it as plain characters."""
    return tokenizer(escape_special_tokens(tokenizer, text), split_special_tokens=True, **options).input_ids
