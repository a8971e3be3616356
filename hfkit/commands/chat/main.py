"""hfkit chat runs/quickstart/ppo --against runs/quickstart/sft

Talk with a model, streaming and with its history: a folder or a Hub id, a full model or an adapter. --against sets a
second one beside it, --adapter loads more adapters of the same base, which is held once, to switch between. Commands on
the way: /temperature, /length, /system, /adapter, /reset, /help, /quit. Ctrl-C stops the reply, Ctrl-D ends. --prompt
gives one reply on stdout and ends; lines from a pipe are the turns of a conversation.
"""

import sys
from argparse import Namespace

from transformers import set_seed

from hfkit.commands.chat.conversation import Settings
from hfkit.commands.chat.models import LoadedModels
from hfkit.commands.chat.session import ChatSession, answer_once
from hfkit.core.out_of_memory import explain_out_of_memory


def chat(
    model: str,
    against: str | None = None,
    adapter: list[str] | None = None,
    prompt: str | None = None,
    revision: str = "main",
    dtype: str = "float32",
    seed: int = 42,
    **settings,
) -> None:
    """Talks until the input ends, or gives one reply to `prompt`.

    Args:
        model, against: folder or Hub id.
        adapter: adapters on the base of `model`, to switch to.
        revision: branch, tag or commit of `model` on the Hub.
        settings: `temperature`, `length` and `system`, as `hfkit.commands.chat.conversation.Settings` has them.

    Raises:
        HfkitError: a path that holds no language model, an adapter on another base, settings out of range; a GPU
            without room for them.
    """
    settings = Settings(**settings)
    choir = LoadedModels(dtype)
    with explain_out_of_memory(choir):
        voices = [choir.add(model, revision), *([choir.add(against)] if against else [])]
        for path in adapter or []:
            choir.add_adapter(path, voices[0])
        set_seed(seed)
        if prompt is not None:
            answer_once(voices, prompt, settings)
        else:
            ChatSession(choir, voices, settings).run(sys.stdin)


def main(given: Namespace) -> int:
    """Run `hfkit chat`."""
    chat(**vars(given))
    return 0
