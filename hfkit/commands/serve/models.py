"""The models of a server: what is known of them before their weights are loaded."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from hfkit.commands.serve.errors import ApiError
from hfkit.commands.serve.requests import Request
from hfkit.commands.serve.tool_calls import supports_tools
from hfkit.core.errors import HfkitError, nearest
from hfkit.data.chat_template import encode_prompt
from hfkit.data.messages import RenderError
from hfkit.models.tokenizers import variables_fault


@dataclass(frozen=True)
class ServedModel:
    """A model that the server answers for.

    Args:
        context: context length in tokens; None if unlimited.
        stop_token_ids: the tokens that end a response.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    context: int | None
    stop_token_ids: list[int]


def find_model(models: dict[str, ServedModel], name: str) -> ServedModel:
    """Return the model with a name; without a name, the only one.

    Raises:
        ApiError: there is none.
    """
    if not name and len(models) == 1:
        return next(iter(models.values()))
    if name not in models:
        guess = nearest(name, models)
        hint = f"did you mean {guess!r}?" if guess else f"the models are: {', '.join(models)}"
        raise ApiError(404, f"model: {name!r} does not exist; {hint}", "model", "model_not_found")
    return models[name]


def encode_request(model: ServedModel, request: Request) -> list[int]:
    """Return the token ids of a request's prompt.

    Raises:
        ApiError: the chat template rejects it, it is empty, or too long for the context.
    """
    ids = encode_chat(model, request) if request.is_chat else encode_completion(model, request.prompt)
    param = "messages" if request.is_chat else "prompt"
    if not ids:
        raise ApiError(400, "the prompt has no tokens", param)
    if model.context is not None and len(ids) >= model.context:
        size = f"the prompt has {len(ids)} tokens, but the context of {model.name} is {model.context} tokens"
        raise ApiError(400, f"{size}: send a shorter one", param, "context_length_exceeded")
    return ids


def encode_chat(model: ServedModel, request: Request) -> list[int]:
    """Return the token ids of messages, as `hfkit chat` encodes them.

    Raises:
        ApiError: there is no chat template, or it rejects the messages.
    """
    tokenizer, messages = model.tokenizer, request.prompt
    if not tokenizer.chat_template:
        raise ApiError(400, f"{model.name} has no chat template: send a text to /v1/completions", "messages")
    if messages[-1]["role"] == "assistant":
        raise ApiError(400, "messages: the last one is the assistant's: end with one of the user", "messages")
    if fault := variables_fault(tokenizer, request.variables):
        raise ApiError(400, fault, "chat_template_kwargs")
    try:
        if request.tools and not supports_tools(tokenizer, messages, request.tools):
            raise ApiError(400, f"the chat template of {model.name} does not support tools: leave them out", "tools")
        return encode_prompt(tokenizer, messages, request.tools, request.variables)
    except (RenderError, HfkitError) as error:
        raise ApiError(400, f"messages: {error}", "messages") from error


def encode_completion(model: ServedModel, prompt: str | list[int]) -> list[int]:
    """Return the token ids of a text, in which special tokens are tokens, or the given ids.

    Raises:
        ApiError: an id is not in the vocabulary.
    """
    tokenizer = model.tokenizer
    if isinstance(prompt, str):
        ids = tokenizer(prompt).input_ids
        return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
    if max(prompt) >= len(tokenizer):
        raise ApiError(400, f"prompt: the vocabulary has no token {max(prompt)}", "prompt")
    return prompt
