"""The `hfkit` command: a table of verbs, whose modules are imported only when a verb runs."""

import os
import sys
from importlib import import_module

from hfkit import __version__

VERBS = {
    "tokenizer": ("hfkit.stages.tokenizer", "train a byte-level BPE tokenizer"),
    "pretrain": ("hfkit.stages.pretrain", "pretrain a causal language model, from scratch or continued"),
    "sft": ("hfkit.stages.sft", "supervised fine-tuning on chats or instructions"),
    "reward": ("hfkit.stages.reward", "train a reward model on preference pairs"),
    "ppo": ("hfkit.stages.ppo", "align a policy to a reward model with PPO"),
    "data": ("", "data sets: the cards that there are, and what becomes of their rows"),
    "run": ("hfkit.commands.run", "run several stages in a row from one file"),
    "merge": ("hfkit.commands.merge", "merge an adapter into its base: an ordinary model to share"),
    "evaluate": ("hfkit.evaluation.evaluate", "how good a model is, held against others on the same rows"),
    "arena": ("hfkit.evaluation.arena", "which model replies best: a judge, win rates, ratings"),
    "push": ("hfkit.commands.push", "push a model, adapter or tokenizer to the Hub, with its card and record"),
    "pull": ("hfkit.commands.pull", "fetch one from the Hub, an adapter with its base, to use offline"),
    "report": (
        "hfkit.commands.report.main",
        "one page on what a pipeline made: figures, plots, replies, data, cost",
    ),
    "chat": ("hfkit.commands.chat.main", "talk with a model, or with two side by side"),
    "lineage": ("hfkit.commands.lineage", "what a run was made from: parents, data, base, and what became of them"),
    "plan": (
        "hfkit.commands.plan.main",
        "parameters, memory, steps and disk of a run, before anything is downloaded",
    ),
    "quickstart": ("hfkit.quickstart.main", "the whole chain on a tiny model, in minutes on a CPU"),
}
DATA_VERBS = {
    "cards": ("hfkit.commands.data.cards", "the data cards: what each holds, its licence, and the stages that read it"),
    "check": (
        "hfkit.commands.data.check",
        "what a stage keeps, drops and cuts of its data, and why; status 1 past thresholds",
    ),
    "preview": ("hfkit.commands.data.preview", "rows as the model sees them, the trained tokens marked"),
    "push": ("hfkit.commands.data.push", "a data set to the Hub, with its card, in one commit"),
}


def main(argv: list[str] | None = None) -> int:
    """Run `hfkit VERB ...` and return its exit status."""
    verb, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in ("-h", "--help"):
        print(
            f"hfkit VERB --config FILE [--key value ...]\n\n{verb_table(VERBS)}\n\n`hfkit VERB --help` lists its keys."
        )
        return 0
    if verb == "--version":
        print(f"hfkit {__version__}")
        return 0
    if verb == "data":
        return run_data_verb(rest)
    if verb in VERBS:
        return run_verb(verb, rest)
    return report_unknown_verb("hfkit", "verb", verb, VERBS)


def run_data_verb(argv: list[str]) -> int:
    """Run `hfkit data COMMAND ...` and return its exit status."""
    command, *rest = argv or ["--help"]
    if command in ("-h", "--help"):
        print(f"hfkit data COMMAND ...\n\n{verb_table(DATA_VERBS)}\n\n`hfkit data COMMAND --help` tells more.")
        return 0
    return (
        run_verb(f"data {command}", rest)
        if command in DATA_VERBS
        else report_unknown_verb("hfkit data", "command", command, DATA_VERBS)
    )


def verb_table(verbs: dict) -> str:
    """Return the lines of a help: each verb and what it is for."""
    return "\n".join(f"  {name:<11} {text}" for name, (_, text) in verbs.items())


def report_unknown_verb(prog: str, what: str, given: str, verbs: dict) -> int:
    """Report a verb that there is not, with the one that was probably meant."""
    from hfkit.core.errors import nearest

    guess = nearest(given, verbs)
    hint = f"did you mean `{prog} {guess}`?" if guess else f"the {what}s are: {', '.join(verbs)}"
    print(f"{prog}: unknown {what} {given!r}; {hint}", file=sys.stderr)
    return 2


def run_verb(verb: str, argv: list[str] | None = None) -> int:
    """Parse a verb's arguments, run it and return its exit status; errors meant for the user come out as text.

    `HFKIT_DEBUG=1` adds the traceback. The arguments are parsed before the verb's module is imported, so `--help` and
    a mistyped flag do not wait for torch.
    """
    from hfkit.commands.arguments import read_arguments
    from hfkit.core.console import quiet_libraries
    from hfkit.core.errors import HfkitError

    enable_expandable_segments()
    module = DATA_VERBS[verb.removeprefix("data ")][0] if verb.startswith("data ") else VERBS[verb][0]
    quiet_libraries()
    try:
        given = read_arguments(verb, module, sys.argv[1:] if argv is None else argv)
        status = import_module(module).main(given)
        return status if isinstance(status, int) else 0  # a stage returns its folder
    except (HfkitError, KeyboardInterrupt) as error:
        if os.environ.get("HFKIT_DEBUG") == "1":
            sys.excepthook(type(error), error, error.__traceback__)
        print(f"hfkit {verb}: {str(error) or 'interrupted'}", file=sys.stderr)
        return getattr(error, "exit_status", 130)


def enable_expandable_segments() -> None:
    """Let torch's GPU allocator extend its segments, unless its settings are given; call it before torch is imported.

    Batches have many lengths, and fixed segments are left with holes that none of the next batches fits into.
    """
    if any(name.startswith("PYTORCH_") and name.endswith("ALLOC_CONF") for name in os.environ):
        return
    from importlib.metadata import version

    release = tuple(map(int, version("torch").split(".")[:2]))
    name = "PYTORCH_ALLOC_CONF" if release >= (2, 9) else "PYTORCH_CUDA_ALLOC_CONF"
    os.environ[name] = "expandable_segments:True"


if __name__ == "__main__":  # for `accelerate launch -m hfkit.cli VERB`
    sys.exit(main())
