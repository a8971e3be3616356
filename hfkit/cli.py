"""The `hfkit` command: a table of verbs, each a module that is imported only when its verb is used."""

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
    "data": ("hfkit.data.main", "data sets: the cards that there are, and what becomes of their rows"),
    "run": ("hfkit.pipeline", "run several stages in a row from one file"),
    "merge": ("hfkit.merge", "merge an adapter into its base: an ordinary model to share"),
    "evaluate": ("hfkit.evaluation.evaluate", "how good a model is, held against others on the same rows"),
    "arena": ("hfkit.evaluation.arena", "which model replies best: a judge, win rates, ratings"),
    "push": ("hfkit.hub.push", "push a model, adapter or tokenizer to the Hub, with its card and record"),
    "pull": ("hfkit.hub.pull", "fetch one from the Hub, an adapter with its base, to use offline"),
    "report": ("hfkit.reporting.main", "one page on what a pipeline made: figures, plots, replies, data, cost"),
    "chat": ("hfkit.chat.main", "talk with a model, or with two side by side"),
    "lineage": ("hfkit.lineage", "what a run was made from: parents, data, base, and what became of them"),
    "plan": ("hfkit.planning.main", "parameters, memory, steps and disk of a run, before anything is downloaded"),
    "quickstart": ("hfkit.quickstart.main", "the whole chain on a tiny model, in minutes on a CPU"),
}


def main(argv: list[str] | None = None) -> int:
    """Run `hfkit VERB ...` and return its exit status."""
    verb, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in VERBS:
        return run_verb(verb, rest)
    if verb in ("-h", "--help"):
        table = "\n".join(f"  {name:<11} {text}" for name, (_, text) in VERBS.items())
        print(f"hfkit VERB --config FILE [--key value ...]\n\n{table}\n\n`hfkit VERB --help` lists its keys.")
        return 0
    if verb == "--version":
        print(f"hfkit {__version__}")
        return 0
    from hfkit.errors import nearest

    guess = nearest(verb, VERBS)
    hint = f"did you mean `hfkit {guess}`?" if guess else f"the verbs are: {', '.join(VERBS)}"
    print(f"hfkit: unknown verb {verb!r}; {hint}", file=sys.stderr)
    return 2


def run_verb(verb: str, argv: list[str] | None = None) -> int:
    """Run one verb and return its exit status; errors meant for the user come out as text.

    `HFKIT_DEBUG=1` adds the traceback.
    """
    from hfkit.errors import HfkitError

    let_segments_grow()
    try:
        return import_module(VERBS[verb][0]).cli(sys.argv[1:] if argv is None else argv) or 0
    except (HfkitError, KeyboardInterrupt) as error:
        if os.environ.get("HFKIT_DEBUG") == "1":
            sys.excepthook(type(error), error, error.__traceback__)
        print(f"hfkit {verb}: {str(error) or 'interrupted'}", file=sys.stderr)
        return getattr(error, "exit_status", 130)


def let_segments_grow() -> None:
    """Has torch's allocator of GPU memory extend its segments, whatever was not set otherwise; call it before torch.

    Batches are of many lengths, and segments of one size are left with holes that none of the next ones fits into.
    """
    if any(name.startswith("PYTORCH_") and name.endswith("ALLOC_CONF") for name in os.environ):
        return
    from importlib.metadata import version

    release = tuple(map(int, version("torch").split(".")[:2]))
    name = "PYTORCH_ALLOC_CONF" if release >= (2, 9) else "PYTORCH_CUDA_ALLOC_CONF"
    os.environ[name] = "expandable_segments:True"


def verb_parser(verb: str, doc: str):
    """The argument parser of a verb that is no stage; flags are never completed from a prefix."""
    import argparse

    kind = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"hfkit {verb}", description=doc, formatter_class=kind, allow_abbrev=False)


if __name__ == "__main__":  # for `accelerate launch -m hfkit.cli VERB`
    sys.exit(main())
