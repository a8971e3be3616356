"""hfkit merge runs/sft runs/merged

Merges a LoRA adapter, of a policy or of a reward model, into its base: an ordinary Transformers folder, with tokenizer,
chat template, generation config, model card and record, that opens without peft and without hfkit. It is merged in
float32 into the base's full-precision weights and written in bfloat16, unless --dtype says otherwise. An adapter that
was trained over a quantized base stood on slightly other weights: what that changes is measured on held-out rows.
"""

import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

from hfkit.cli import verb_parser
from hfkit.errors import ConfigError, HfkitError, Problem

DTYPES = ("bfloat16", "float16", "float32", "auto")
TASKS = ("CAUSAL_LM", "SEQ_CLS")
UNMEASURED = "What that changes was not measured, {why}: `hfkit merge ADAPTER OUT --eval_dataset FILE` measures it."


def merge(
    adapter: str,
    out: str | Path,
    dtype: str = "bfloat16",
    base: str | None = None,
    eval_dataset: str | None = None,
    revision: str = "main",
) -> Path:
    """Merges an adapter into its base and returns the merged model's folder.

    Args:
        adapter: folder or Hub id.
        out: a folder that is not there yet, or empty; it is written whole or not at all.
        dtype: of the weights written; auto is the base's own.
        base: where the base lies now, if it is no longer where the adapter says.
        eval_dataset: held-out rows to compare adapter and merged model on; by default an adapter that was trained over
            a quantized base is compared on those that its record names.
        revision: branch, tag or commit of an adapter on the Hub.

    Raises:
        HfkitError: no LoRA adapter, or a reward model's with other than one label; a base that is missing, quantized,
            or not the one it was trained on; something in the way at `out`; rows that cannot be read.
    """
    import torch
    from accelerate.utils import release_memory

    from hfkit.adapters import merge_adapter
    from hfkit.console import say
    from hfkit.models import HEADS, load_base
    from hfkit.record import parent_of, record_of
    from hfkit.saving import save_model

    started, out = time.time(), Path(out)
    if dtype not in DTYPES:
        raise ConfigError([Problem("dtype", dtype, f"one of {', '.join(DTYPES)}")])
    refuse_what_is_in_the_way(out)
    source = mergeable(str(adapter), revision, base)
    trained = record_of(source.path, source.revision) or {}
    lineage = [parent_of("adapter", source.path, source.revision)]
    tokenizer = tokenizer_of(source)
    held_out = rows_to_measure(trained, source, tokenizer, eval_dataset)
    with whole(out) as folder:
        say(f"merge: {source.path} into {source.base}")
        # on the CPU: in float32 it may not fit into the GPU that it was trained on
        model = load_base(source.base, source.base_revision, head=HEADS[task_of(source)], on=torch.device("cpu"))
        model = merge_adapter(model, source)
        dtype = cast(model, dtype, source)
        save_model(model, tokenizer, folder)
        del model
        release_memory()  # one model at a time
        facts = compare(folder, source, trained, tokenizer, held_out, dtype)
        settings = {"adapter": source.path, "base": base, "dtype": dtype, "eval_dataset": eval_dataset}
        write_about(folder, source, settings, seed=trained.get("seed"), lineage=lineage, started=started, **facts)
    say(f"merge: done in {time.time() - started:.0f} s, in {out}")
    return out


def refuse_what_is_in_the_way(out: Path) -> None:
    """Raises HfkitError if `out` is a file, or a folder with something in it."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise HfkitError(f"{out} is a file or a link; it is left as it is: choose another folder")
    if out.is_dir() and any(out.iterdir()):
        raise HfkitError(f"{out} is not empty; it is left as it is: choose another folder")


def mergeable(adapter: str, revision: str, base: str | None):
    """The source of an adapter that can be merged into the base at hand.

    Raises:
        HfkitError: it cannot.
    """
    from hfkit.base import refuse_other_base, stored_quantization
    from hfkit.models import require_reward_adapter
    from hfkit.record import record_of
    from hfkit.source import Source, folder_of

    source = Source.of(adapter, revision, base)
    if source.adapter is None:
        raise HfkitError(f"{adapter} is no adapter: there is no adapter_config.json")
    kind, task = source.adapter.get("peft_type"), source.adapter.get("task_type")
    if kind != "LORA" or task not in TASKS:
        raise HfkitError(f"{adapter} is a {kind} adapter for {task}: LORA for {' or '.join(TASKS)} is merged")
    status = (record_of(adapter, revision) or {}).get("status", "done")
    if status != "done":
        raise HfkitError(f"{adapter} is a run that is not done ({status}): finish it first")
    if task == "SEQ_CLS":
        require_reward_adapter(source)
    try:
        is_there = bool(source.base) and folder_of(source.base, source.base_revision) is not None
    except HfkitError:
        is_there = False
    if not is_there:
        raise HfkitError(f"{source.base!r}, the base of {adapter}, is not there: say where it lies with --base PATH")
    refuse_other_base(source)
    method = stored_quantization(source.base, source.base_revision)
    if method:
        raise HfkitError(
            f"the weights of {source.base} are stored quantized ({method}), and what is merged into those is rounded "
            "away: name the full-precision model behind it with --base PATH"
        )
    return source


def task_of(source):
    """The adapter's task as peft has it."""
    from peft import TaskType

    return TaskType(source.adapter["task_type"])


def tokenizer_of(source):
    """The adapter's own tokenizer, or its base's where it was saved without one."""
    from hfkit.errors import reason
    from hfkit.models import load_tokenizer
    from hfkit.source import find_file

    own = find_file(source.path, "tokenizer_config.json", source.revision)
    place = (source.path, source.revision) if own else (source.base, source.base_revision)
    try:
        return load_tokenizer(*place)
    except (OSError, ValueError) as error:
        raise HfkitError(f"the tokenizer of {place[0]} cannot be read: {reason(error)}") from error


@contextmanager
def whole(out: Path):
    """Gives a folder beside `out` that takes its place at the end; of a failure nothing is left.

    Raises:
        HfkitError: another process is at it; the disk is full; something has come in the way.
    """
    from hfkit.run import alone_in, in_words

    out = out.absolute()
    staging = out.parent / f".{out.name}.merging"
    with alone_in(staging, "merging"), in_words(staging.parent):
        try:
            shutil.rmtree(staging / out.name, ignore_errors=True)  # our own leavings, if we were killed
            (staging / out.name).mkdir()
            yield staging / out.name
            refuse_what_is_in_the_way(out)
            os.replace(staging / out.name, out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def cast(model, dtype: str, source) -> str:
    """Casts the merged weights and returns the name of their dtype.

    Raises:
        HfkitError: some of them are no finite numbers in it.
    """
    import torch
    from transformers import AutoConfig

    if dtype == "auto":
        config = AutoConfig.from_pretrained(source.base, revision=source.base_revision, trust_remote_code=False)
        dtype = str(config.dtype or torch.float32).removeprefix("torch.")
    model.to(getattr(torch, dtype))
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise HfkitError(f"some of the merged weights are not finite in {dtype}: try --dtype float32")
    return dtype


def rows_to_measure(trained: dict, source, tokenizer, eval_dataset: str | None):
    """Encoded held-out rows and their account; None where there is nothing to measure, or nothing to measure it on.

    Raises:
        HfkitError: `eval_dataset` cannot be read.
    """
    from hfkit.console import warn
    from hfkit.evaluation.merged import held_out_rows
    from hfkit.quantization import quantization_as_trained

    if eval_dataset is None and quantization_as_trained(source.path, source.revision) is None:
        return None
    try:
        return held_out_rows(trained, tokenizer, source.adapter["task_type"] == "SEQ_CLS", eval_dataset)
    except HfkitError as error:
        if eval_dataset is not None:
            raise
        warn(f"merge: no held-out rows at hand to measure what it changes; --eval_dataset names some\n{error}")
        return None


def compare(folder: Path, source, trained: dict, tokenizer, held_out, dtype: str) -> dict:
    """Facts for the record: `metrics` of the adapter as it was trained and of the merged model, `data`, `notes`."""
    from accelerate.utils import release_memory

    from hfkit.adapters import with_adapter
    from hfkit.console import say, warn
    from hfkit.evaluation.merged import comparison, measure
    from hfkit.models import HEADS, load_base
    from hfkit.quantization import quantization_as_trained

    task, quantization = task_of(source), quantization_as_trained(source.path, source.revision)
    facts, on = {"metrics": {}, "data": {}, "notes": []}, "its base"
    if quantization is not None:
        on = f"its {4 if quantization.load_in_4bit else 8}-bit base"
        facts["notes"].append(f"The adapter was trained on {on}, and is merged into the full-precision weights.")
        if held_out is None:
            facts["notes"].append(UNMEASURED.format(why="for want of held-out rows"))
    if held_out is None:
        return facts
    rows, account = held_out
    options = {"dtype": trained["config"]["dtype"], "quantization": quantization} if quantization else {}
    try:
        adapted = with_adapter(load_base(source.base, source.base_revision, head=HEADS[task], **options), source)
    except HfkitError as error:
        warn(f"merge: not measured: {error}")
        facts["notes"].append(UNMEASURED.format(why=f"since {on} could not be loaded"))
        return facts
    before = measure(adapted, tokenizer, rows)
    del adapted
    release_memory()
    after = measure(load_base(str(folder), head=HEADS[task], dtype=dtype), tokenizer, rows)
    figures, sentence = comparison(before, after, f"the adapter on {on}")
    sentence = f"On {len(rows)} held-out rows {sentence}."
    say(f"merge: {sentence}")
    return {
        "metrics": {"eval_rows": len(rows), **figures},
        "data": {"test": account.as_dict()},
        "notes": [*facts["notes"], sentence],
    }


def write_about(folder: Path, source, settings: dict, started: float, notes: list[str], **facts) -> None:
    """The record and the model card of the merged model."""
    from hfkit.base import base_identity
    from hfkit.console import take_warnings
    from hfkit.hub.card import write_card
    from hfkit.record import RECORD, environment, hash_of, peak_memory_bytes, write_json

    record = {
        "stage": "merge",
        "status": "done",
        "task_type": source.adapter["task_type"],
        "config": settings,
        "config_sha256": hash_of(settings),
        "base": base_identity(source.base, source.base_revision),
        "environment": environment(),
        "notes": notes,
        "warnings": take_warnings(),
        "wall_seconds": round(time.time() - started, 2),
        "peak_memory_bytes": peak_memory_bytes(),
        **facts,
    }
    write_card(folder, record)
    write_json(folder / RECORD, record)


def cli(argv: list[str] | None = None) -> int:
    """`hfkit merge`"""
    from hfkit.console import quiet_libraries

    parser = verb_parser("merge", __doc__)
    parser.add_argument("adapter", help="folder or Hub id of the adapter")
    parser.add_argument("out", help="folder for the merged model; not there yet, or empty")
    parser.add_argument(
        "--dtype", default="bfloat16", help=f"{', '.join(DTYPES)} (the base's own); default: %(default)s"
    )
    parser.add_argument("--base", help="where the base lies now, if not where the adapter says")
    parser.add_argument("--eval_dataset", help="held-out rows to compare adapter and merged model on")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of an adapter on the Hub")
    given = parser.parse_args(argv)
    quiet_libraries()
    merge(**vars(given))
    return 0
