"""hfkit serve runs/quickstart/ppo runs/quickstart/sft

Serve models with OpenAI's interface: /v1/chat/completions, /v1/completions, /v1/models, /health. A model is a folder or
a Hub id, a full model or an adapter, named by its folder, or with NAME=PATH. Adapters of one base share it. Clients get
the responses of `hfkit chat`: with the chat template, system prompt and stop tokens of training.

Only this machine can connect. --host opens the server to others, and needs an API key, in --api_key_file or in the
environment variable HFKIT_API_KEY. --feedback adds /v1/feedback, which appends what users think of the responses to a
file of rows for `hfkit sft` and `hfkit reward`. Ctrl-C ends the server.
"""

from argparse import Namespace
from importlib import import_module
from importlib.util import find_spec

from hfkit.core.errors import MISSING, ConfigError, Kind, Problem

NEEDED_PACKAGES = ("fastapi", "uvicorn")


def main(given: Namespace) -> int:
    """Run `hfkit serve`.

    Raises:
        ConfigError: a package is missing.
    """
    if missing := [name for name in NEEDED_PACKAGES if find_spec(name) is None]:
        problems = [Problem(name, MISSING, "pip install 'hfkit[serve]'", Kind.NOT_HERE) for name in missing]
        raise ConfigError(problems, "the installed packages")
    import_module("hfkit.commands.serve.server").serve(given)
    return 0
