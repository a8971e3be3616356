"""hfkit chat runs/quickstart/ppo --against runs/quickstart/sft

Talk with a model, streaming and with its history: a folder or a Hub id, a full model or an adapter. --against sets a
second one beside it, --adapter loads more adapters of the same base, which is held once, to switch between. Commands on
the way: /temperature, /length, /system, /adapter, /reset, /help, /quit. Ctrl-C stops the reply, Ctrl-D ends. --prompt
gives one reply on stdout and ends; lines from a pipe are the turns of a conversation.
"""

import sys

from hfkit.cli import verb_parser
from hfkit.merge import DTYPES


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
        settings: `temperature`, `length` and `system`, as `hfkit.chat.conversation.Settings` has them.

    Raises:
        HfkitError: a path that holds no language model, an adapter on another base, settings out of range; a GPU
            without room for them.
    """
    from transformers import set_seed

    from hfkit.chat.conversation import Settings
    from hfkit.chat.terminal import Talk, once
    from hfkit.chat.voices import Choir
    from hfkit.full_gpu import gpu_in_words

    settings = Settings(**settings)
    choir = Choir(dtype)
    with gpu_in_words(choir):
        voices = [choir.add(model, revision), *([choir.add(against)] if against else [])]
        for path in adapter or []:
            choir.add_adapter(path, voices[0])
        set_seed(seed)
        if prompt is not None:
            once(voices, prompt, settings)
        else:
            Talk(choir, voices, settings).run(sys.stdin)


def cli(argv: list[str] | None = None) -> int:
    """`hfkit chat`"""
    from hfkit.console import quiet_libraries

    parser = verb_parser("chat", __doc__)
    parser.add_argument("model", help="folder or Hub id of a model or an adapter")
    parser.add_argument("--against", metavar="MODEL", help="a second one, side by side")
    parser.add_argument("--adapter", nargs="+", metavar="ADAPTER", help="more adapters on the base of the first")
    parser.add_argument("--prompt", help="one message; its reply goes to stdout")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument(
        "--temperature", type=float, default=0.7, help="0 takes the likeliest token; default: %(default)s"
    )
    parser.add_argument("--length", type=int, default=256, help="most tokens of a reply; default: %(default)s")
    parser.add_argument("--seed", type=int, default=42, help="of the sampling; default: %(default)s")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the weights; default: %(default)s")
    given = parser.parse_args(argv)
    quiet_libraries()
    chat(**vars(given))
    return 0
