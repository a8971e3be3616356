"""hfkit merge runs/sft runs/merged

Merges a LoRA adapter, of a policy or of a reward model, into its base: an ordinary Transformers folder, with tokenizer,
chat template, generation config, model card and record, that opens without peft and without hfkit. It is merged in
float32 into the base's full-precision weights and written in bfloat16, unless --dtype says otherwise. An adapter that
was trained over a quantized base stood on slightly other weights: what that changes is measured on held-out rows.
"""

import os
import shutil
import time
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import release_memory
from peft import TaskType
from transformers import AutoConfig

from hfkit.config.fields import DTYPES
from hfkit.core.console import say, take_warnings, warn
from hfkit.core.errors import ConfigError, HfkitError, Problem, reason
from hfkit.core.files import RECORD, hash_of, require_free_folder, write_json
from hfkit.core.locks import explain_errors, lock_folder
from hfkit.evaluation.merged import comparison, held_out_rows, measure
from hfkit.hub.cards.model_card import write_card
from hfkit.models.adapters import merge_adapter, with_adapter
from hfkit.models.loading import HEADS, load_base, load_tokenizer, require_reward_adapter
from hfkit.models.quantization import quantization_as_trained
from hfkit.models.saving import save_model
from hfkit.records.base import base_identity, require_own_base, stored_quantization
from hfkit.records.environment import environment, peak_memory_bytes
from hfkit.records.record import parent_of, record_of
from hfkit.records.source import Source, find_file, folder_of

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
    started, out = time.time(), Path(out)
    if dtype not in DTYPES:
        raise ConfigError([Problem("dtype", dtype, f"one of {', '.join(DTYPES)}")])
    require_free_folder(out)
    source = require_mergeable(str(adapter), revision, base)
    trained = record_of(source.path, source.revision) or {}
    lineage = [parent_of("adapter", source.path, source.revision)]
    tokenizer = load_adapter_tokenizer(source)
    held_out = load_rows_to_measure(trained, source, tokenizer, eval_dataset)
    with staged_folder(out) as folder:
        say(f"merge: {source.path} into {source.base}")
        # on the CPU: in float32 it may not fit into the GPU that it was trained on
        model = load_base(source.base, source.base_revision, head=HEADS[task_type(source)], on=torch.device("cpu"))
        model = merge_adapter(model, source)
        dtype = cast_weights(model, dtype, source)
        save_model(model, tokenizer, folder)
        del model
        release_memory()  # one model at a time
        facts = measure_merge(folder, source, trained, tokenizer, held_out, dtype)
        settings = {"adapter": source.path, "base": base, "dtype": dtype, "eval_dataset": eval_dataset}
        write_card_and_record(
            folder, source, settings, seed=trained.get("seed"), lineage=lineage, started=started, **facts
        )
    say(f"merge: done in {time.time() - started:.0f} s, in {out}")
    return out


def require_mergeable(adapter: str, revision: str, base: str | None):
    """The source of an adapter that can be merged into the base at hand.

    Raises:
        HfkitError: it cannot.
    """
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
    require_own_base(source)
    method = stored_quantization(source.base, source.base_revision)
    if method:
        raise HfkitError(
            f"the weights of {source.base} are stored quantized ({method}), and what is merged into those is rounded "
            "away: name the full-precision model behind it with --base PATH"
        )
    return source


def task_type(source):
    """The adapter's task as peft has it."""
    return TaskType(source.adapter["task_type"])


def load_adapter_tokenizer(source):
    """The adapter's own tokenizer, or its base's where it was saved without one."""
    own = find_file(source.path, "tokenizer_config.json", source.revision)
    place = (source.path, source.revision) if own else (source.base, source.base_revision)
    try:
        return load_tokenizer(*place)
    except (OSError, ValueError) as error:
        raise HfkitError(f"the tokenizer of {place[0]} cannot be read: {reason(error)}") from error


@contextmanager
def staged_folder(out: Path):
    """Gives a folder beside `out` that takes its place at the end; of a failure nothing is left.

    Raises:
        HfkitError: another process is at it; the disk is full; something has come in the way.
    """
    out = out.absolute()
    staging = out.parent / f".{out.name}.merging"
    with lock_folder(staging, "merging"), explain_errors(staging.parent):
        try:
            shutil.rmtree(staging / out.name, ignore_errors=True)  # our own leavings, if we were killed
            (staging / out.name).mkdir()
            yield staging / out.name
            require_free_folder(out)
            os.replace(staging / out.name, out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def cast_weights(model, dtype: str, source) -> str:
    """Casts the merged weights and returns the name of their dtype.

    Raises:
        HfkitError: some of them are no finite numbers in it.
    """
    if dtype == "auto":
        config = AutoConfig.from_pretrained(source.base, revision=source.base_revision, trust_remote_code=False)
        dtype = str(config.dtype or torch.float32).removeprefix("torch.")
    model.to(getattr(torch, dtype))
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise HfkitError(f"some of the merged weights are not finite in {dtype}: try --dtype float32")
    return dtype


def load_rows_to_measure(trained: dict, source, tokenizer, eval_dataset: str | None):
    """Encoded held-out rows and their account; None where there is nothing to measure, or nothing to measure it on.

    Raises:
        HfkitError: `eval_dataset` cannot be read.
    """
    if eval_dataset is None and quantization_as_trained(source.path, source.revision) is None:
        return None
    try:
        return held_out_rows(trained, tokenizer, source.adapter["task_type"] == "SEQ_CLS", eval_dataset)
    except HfkitError as error:
        if eval_dataset is not None:
            raise
        warn(f"merge: no held-out rows at hand to measure what it changes; --eval_dataset names some\n{error}")
        return None


def measure_merge(folder: Path, source, trained: dict, tokenizer, held_out, dtype: str) -> dict:
    """Facts for the record: `metrics` of the adapter as it was trained and of the merged model, `data`, `notes`."""
    task, quantization = task_type(source), quantization_as_trained(source.path, source.revision)
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


def write_card_and_record(folder: Path, source, settings: dict, started: float, notes: list[str], **facts) -> None:
    """The record and the model card of the merged model."""
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


def main(given: Namespace) -> int:
    """Run `hfkit merge`."""
    merge(**vars(given))
    return 0
