"""hfkit chat runs/quickstart/ppo --against runs/quickstart/sft

Chat with a model: a folder or a Hub id, a full model or an adapter. Responses stream, and the conversation is kept.
--against shows a second model side by side; --adapter loads more adapters of the same base, to switch between. Commands
during a chat: /temperature, /length, /system, /adapter, /reset, /help, /quit. Ctrl-C stops the response, Ctrl-D ends
    the chat. --prompt prints one response to stdout and ends; lines from a pipe are the messages of a conversation.
"""

import sys
from argparse import Namespace

from transformers import set_seed

from hfkit.commands.chat.conversation import Settings
from hfkit.commands.chat.models import LoadedModels
from hfkit.commands.chat.session import ChatSession, answer_once
from hfkit.core.errors import HfkitError
from hfkit.core.explain_errors import explain_out_of_memory
from hfkit.data.messages import RenderError
from hfkit.data.rendering import TEMPLATE_KWARGS, variables_of
from hfkit.models.precision import dtype_to_evaluate


def chat(
    model: str,
    against: str | None = None,
    adapter: list[str] | None = None,
    prompt: str | None = None,
    revision: str = "main",
    dtype: str | None = None,
    chat_template: str | None = None,
    chat_template_kwargs: str | dict | None = None,
    seed: int = 42,
    **settings,
) -> None:
    """Chat until the input ends, or print one response to `prompt`.

    Args:
        model, against: folders or Hub ids.
        adapter: adapters on the base of `model`, to switch to.
        revision: branch, tag or commit of `model` on the Hub.
        dtype: of the weights; default is bfloat16 on a GPU with bf16, else float32.
        chat_template: Jinja file, or the name of one of the tokenizer's templates.
        chat_template_kwargs: variables of the chat template, a mapping or its JSON.
        settings: `temperature`, `length` and `system`, see `hfkit.commands.chat.conversation.Settings`.

    Raises:
        HfkitError: a path has no language model, an adapter has another base, a setting is out of range, or the GPU is
            out of memory.
    """
    settings = Settings(**settings)
    loaded = LoadedModels(dtype_to_evaluate(dtype), chat_template, parse_template_kwargs(chat_template_kwargs))
    with explain_out_of_memory(loaded):
        models = [loaded.add(model, revision), *([loaded.add(against)] if against else [])]
        for path in adapter or []:
            loaded.add_adapter(path, models[0])
        set_seed(seed)
        if prompt is not None:
            answer_once(models, prompt, settings)
        else:
            ChatSession(loaded, models, settings).run(sys.stdin)


def parse_template_kwargs(given: str | dict | None) -> dict:
    """Return the variables of the chat template.

    Raises:
        HfkitError: they are not a mapping.
    """
    try:
        return variables_of({TEMPLATE_KWARGS: given})
    except RenderError as error:
        raise HfkitError(f"--chat_template_kwargs: {given}: expected a mapping as JSON") from error


def main(given: Namespace) -> int:
    """Run `hfkit chat`."""
    chat(**vars(given))
    return 0
