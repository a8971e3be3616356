"""The `hfkit` command: the stages of the registry and a table of other verbs. A module loads when it runs."""

import os
import sys
from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import import_module

from hfkit import __version__

VERBS = {
    "data": ("", "check, preview and push datasets; list data cards"),
    "init": ("hfkit.commands.init.main", "write a pipeline that fits a model, data and memory, to start from"),
    "run": ("hfkit.commands.run", "run several stages in order, from one YAML"),
    "merge": ("hfkit.commands.merge", "merge a LoRA adapter into its base"),
    "export": ("hfkit.commands.export.main", "write a model for llama.cpp, Ollama or vLLM"),
    "evaluate": ("hfkit.evaluation.evaluate", "evaluate a model on held-out rows, next to other models"),
    "arena": ("hfkit.evaluation.arena", "compare the responses of models: judge, win rates, ratings"),
    "sample": ("hfkit.evaluation.sample", "sample several responses to each prompt: for labels, best of n, votes"),
    "label": ("hfkit.commands.label.main", "rank responses on a page, or with a judge: rows for reward models and SFT"),
    "bench": ("hfkit.evaluation.bench", "run models through tasks of lm-evaluation-harness, stage by stage"),
    "push": ("hfkit.commands.push", "push a model, adapter or tokenizer to the Hub, with card and record"),
    "pull": ("hfkit.commands.pull", "download a model from the Hub, an adapter with its base, to use offline"),
    "curve": ("hfkit.commands.curve.main", "train a stage on growing numbers of rows: what would more data bring?"),
    "report": ("hfkit.commands.report.main", "write a page about a pipeline: metrics, plots, responses, data, cost"),
    "chat": ("hfkit.commands.chat.main", "chat with a model, or with two side by side"),
    "serve": ("hfkit.commands.serve.main", "serve models to programs that use OpenAI's API"),
    "lineage": ("hfkit.commands.lineage", "print what a run was made from, and what has changed since"),
    "plan": ("hfkit.commands.plan.main", "estimate parameters, memory, steps and disk of a run, without downloads"),
    "quickstart": ("hfkit.quickstart.main", "run all stages on a tiny model, in minutes on a CPU"),
}
"""Module and help of each verb that is not a stage; the registry adds the stages."""
DATA_VERBS = {
    "cards": ("hfkit.commands.data.cards", "list the data cards: content, license, and the stages that read them"),
    "check": ("hfkit.commands.data.check", "report what a stage keeps, drops and cuts; exit with 1 past thresholds"),
    "preview": ("hfkit.commands.data.preview", "print rows as the model sees them, with the trained tokens marked"),
    "push": ("hfkit.commands.data.push", "push a dataset to the Hub, with its card, in one commit"),
}
RESUMED = ("run", "quickstart", "evaluate", "arena", "sample", "label", "bench", "curve", "push", "pull", "data push")
"""The verbs, in addition to the stages, that a second call of the same command resumes."""
WITHOUT_TORCH = ("label", "push", "pull", "report", "lineage", "data cards", "data push")
"""The verbs that need no PyTorch, at least at their start."""
USAGE = {"hfkit": "VERB CONFIG [--FLAG VALUE ...]", "hfkit data": "VERB ..."}


def main(argv: list[str] | None = None) -> int:
    """Run `hfkit VERB ...` and return its exit status; without `argv`, the process is to end after that."""
    from hfkit.core.console import clean_output

    clean_output()
    ends_process, argv = argv is None, sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--version"]:
        print(f"hfkit {__version__}")
        return 0
    if argv[:1] == ["data"]:
        return dispatch("hfkit data", DATA_VERBS, argv[1:], ends_process)
    return dispatch("hfkit", all_verbs(), argv, ends_process)


def all_verbs() -> dict[str, tuple[str, str]]:
    """Return module and help of each verb, the stages first."""
    from hfkit.config.registry import STAGES

    return {name: (spec.module, spec.help) for name, spec in STAGES.items()} | VERBS


def dispatch(prog: str, verbs: dict, argv: list[str], ends_process: bool) -> int:
    """Run the verb that `argv` begins with, or print help; report a verb that does not exist, with the nearest one."""
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        lines = "\n".join(f"  {verb:<11} {text}" for verb, (_, text) in verbs.items())
        with suppress(BrokenPipeError):  # hfkit --help | head
            print(f"{prog} {USAGE[prog]}\n\n{lines}\n\n`{prog} {USAGE[prog].split()[0]} --help` lists its arguments.")
            print("HFKIT_DEBUG=1 in front of a command adds the traceback to an error.")
        return 0
    verb = f"{prog} {name}".removeprefix("hfkit ")
    if find_module(verb):
        return run_verb(verb, rest, ends_process)
    from hfkit.config.other_tools import table
    from hfkit.core.errors import nearest

    guess = nearest(name, verbs)
    hint = f"did you mean `{prog} {guess}`?" if guess else f"the verbs are: {', '.join(verbs)}"
    if prog == "hfkit":
        hint = table()["verbs"].get(name, hint)
    print(f"{prog}: unknown verb {name!r}; {hint}", file=sys.stderr)
    return 2


def find_module(verb: str) -> str | None:
    """Return the module of a verb, such as "sft" or "data check"; None if there is no such verb."""
    if verb.startswith("data "):
        return DATA_VERBS.get(verb.removeprefix("data "), (None, ""))[0]
    return (VERBS.get(verb) or all_verbs().get(verb, (None, "")))[0]


def run_verb(verb: str, argv: list[str] | None = None, ends_process: bool = False) -> int:
    """Run a verb and return its exit status; without `argv`, with the arguments of the process, which is then to end.

    Args:
        ends_process: that it is to end, with `argv`.
    """
    from signal import SIGINT

    from hfkit.core.interrupts import Interrupted, catch_signals

    ends_process, argv = ends_process or argv is None, sys.argv[1:] if argv is None else argv
    try:
        with catch_signals(ends_process, lambda number: report_interruption(verb, argv, None, number)):
            return parse_and_run(verb, argv, ends_process)
    except (KeyboardInterrupt, Interrupted) as error:  # before the arguments are parsed
        return report_interruption(verb, argv, None, getattr(error, "number", SIGINT))


def parse_and_run(verb: str, argv: list[str], ends_process: bool = False) -> int:
    """Parse a verb's arguments, run it and return its exit status; errors that users can act on are printed as text.

    `HFKIT_DEBUG=1` adds the traceback. The arguments are parsed before the verb's module is imported, so `--help` and
    a mistyped flag do not wait for torch.
    """
    from hfkit.commands.arguments import read_arguments
    from hfkit.core.console import announce_libraries, clean, clean_output, debug, quiet_libraries
    from hfkit.core.errors import HfkitError
    from hfkit.core.explain_errors import explain_file_error, require_home
    from hfkit.core.interrupts import Interrupted, is_interruption, requested
    from hfkit.core.signal_watch import end_now

    enable_expandable_segments()
    quiet_libraries()
    clean_output()
    module, given = find_module(verb), None
    try:
        require_home()
        with others_of_launch(verb, ends_process):
            given = read_arguments(verb, module, argv)
            if isinstance(given, Namespace):  # other verbs have checked their config
                import_module("hfkit.commands.argument_checks").check_arguments(verb, given)
            if verb not in WITHOUT_TORCH:
                announce_libraries(verb)
            status = import_module(module).main(given)
            return status if isinstance(status, int) else 0  # a stage returns its folder
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        if is_interruption(error):
            debug(error)
            return report_interruption(verb, argv, given, requested())
        explained = error if isinstance(error, HfkitError) else explain_file_error(error)
        if explained is None:
            raise
        debug(error)
        if not explained.is_reported:
            hint = resume_hint(verb, argv, given) if explained.is_of_peer else ""
            print(clean(f"hfkit {verb}: {explained}{hint}"), file=sys.stderr, flush=True)
        if ends_process and os.environ.get("WORLD_SIZE", "1") != "1":
            sys.stdout.flush()
            end_now(explained.exit_status)  # NCCL may wait at the end for a process that is gone
        return explained.exit_status


def others_of_launch(verb: str, ends_process: bool) -> AbstractContextManager:
    """Return a context in which a stage, or a pipeline, runs together with the other processes of its launch."""
    if os.environ.get("WORLD_SIZE", "1") == "1" or not (
        verb == "run" or (find_module(verb) or "").startswith("hfkit.stages.")
    ):
        return nullcontext()
    from hfkit.core.joining import joined_launch

    return joined_launch(ends_process)


def report_interruption(verb: str, argv: list[str], given, number: int | None) -> int:
    """Print which signal interrupted a verb, and the command that resumes it; return the exit status.

    Args:
        given: what the verb's arguments were parsed to; None before that.
        number: of the signal; None: Ctrl-C.
    """
    from signal import SIGINT, Signals

    from hfkit.core.console import is_main_process
    from hfkit.core.error_file import record_for_launcher
    from hfkit.core.interrupts import EXIT_STATUS

    by = f" by {Signals(number).name}" if number else ""
    message = f"interrupted{by}{resume_hint(verb, argv, given)}"
    record_for_launcher(message)
    if is_main_process():
        print(f"hfkit {verb}: {message}", file=sys.stderr, flush=True)
    return EXIT_STATUS[Signals(number or SIGINT)]


def resume_hint(verb: str, argv: list[str], given) -> str:
    """Return the end of a message, with the command that resumes a verb; "" if none does."""
    import shlex

    resumes = getattr(given, "resume_from_checkpoint", None)
    if verb not in RESUMED and resumes is None:
        return ""
    command = ["hfkit", *verb.split(), *argv, *(["--resume_from_checkpoint"] if resumes is False else [])]
    launched = " (with the same launcher)" if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    return f"; to resume{launched}: {shlex.join(command)}"


def enable_expandable_segments() -> None:
    """Let torch's GPU allocator extend its segments, unless the environment configures it; call it before torch loads.

    Batches differ in length, and segments of fixed size fragment: they keep holes that no later batch fits into.
    """
    if any(name.startswith("PYTORCH_") and name.endswith("ALLOC_CONF") for name in os.environ):
        return
    from importlib.metadata import version

    release = tuple(map(int, version("torch").split(".")[:2]))
    name = "PYTORCH_ALLOC_CONF" if release >= (2, 9) else "PYTORCH_CUDA_ALLOC_CONF"
    os.environ[name] = "expandable_segments:True"


if __name__ == "__main__":  # for `accelerate launch -m hfkit.cli VERB`
    sys.exit(main())
