"""hfkit merge runs/sft runs/merged

Merges the LoRA adapter of a policy or of a reward model into its base. The result is an ordinary Transformers folder,
with tokenizer, chat template, generation config, model card and record, which loads without PEFT and without hfkit. The
merge runs in float32 on the base's full-precision weights; the result is written in bfloat16, or in --dtype. An adapter
that was trained on a quantized base was trained on slightly different weights: the effect is measured on held-out rows.
"""

import time
from argparse import Namespace
from pathlib import Path

import torch
from accelerate.utils import release_memory

from hfkit.config.fields import DTYPES
from hfkit.config.registry import MERGE
from hfkit.core.console import say, take_warnings, warn
from hfkit.core.errors import ConfigError, HfkitError, Problem
from hfkit.core.files import RECORD, hash_of, require_free_folder, write_record
from hfkit.core.hub_retry import HubUnreachable
from hfkit.core.staging import staged_folder
from hfkit.data.caching import tokenizer_hash
from hfkit.data.chat_template import reply_ending
from hfkit.evaluation.merge_comparison import comparison, held_out_rows, measure
from hfkit.hub.cards.model_card import write_card
from hfkit.models.adapter_shape import HEADS
from hfkit.models.adapter_support import require_supported
from hfkit.models.adapters import load_adapter, merge_adapter, require_reward_adapter
from hfkit.models.classifiers import describe_generic
from hfkit.models.fitting import require_fitting, require_vocabulary
from hfkit.models.loading import load_base
from hfkit.models.model_config import read_config
from hfkit.models.multimodal import describe_multimodal
from hfkit.models.quantization import quantization_as_trained
from hfkit.models.saving import repair_generation_config, save_model
from hfkit.models.tokenizers import load_tokenizer
from hfkit.records.base import base_identity, require_own_base, stored_quantization
from hfkit.records.environment import environment, peak_memory_bytes
from hfkit.records.record import lineage_entry, model_identity, read_record, record_of, weight_files
from hfkit.records.source import ADAPTER_CONFIG, Source, find_file, folder_of

UNMEASURED = "The effect was not measured, {why}: use `hfkit merge ADAPTER OUT --eval_dataset FILE`."


def merge(
    adapter: str,
    out: str | Path,
    dtype: str = "bfloat16",
    base: str | None = None,
    eval_dataset: str | None = None,
    revision: str = "main",
) -> Path:
    """Merge an adapter into its base and return the folder of the merged model.

    Args:
        adapter: folder or Hub id.
        out: a new or empty folder; it is written completely or not at all. A folder with the same merge is not changed.
        dtype: of the weights to write; auto takes the base's.
        base: path of the base; default is the one that the adapter names.
        eval_dataset: held-out rows to compare adapter and merged model on; by default an adapter that was trained on a
            quantized base is compared on those that its record names.
        revision: branch, tag or commit of an adapter on the Hub.

    Raises:
        HfkitError: `adapter` is not a LoRA adapter of a causal LM or of a reward model with one label; its base is
            missing, quantized, or not the one that it was trained on; `out` exists; rows cannot be read.
    """
    started, out = time.time(), Path(out)
    take_warnings()  # drops those of earlier work in this process
    if dtype not in DTYPES:
        raise ConfigError([Problem("dtype", dtype, f"expected one of: {', '.join(DTYPES)}")])
    before = read_record(out) or {}
    if before.get("stage") != MERGE.name:
        require_free_folder(out)
    source = mergeable_source(str(adapter), revision, base)
    trained = record_of(source.path, source.revision) or {}
    lineage = [lineage_entry("adapter", source.path, source.revision)]
    tokenizer = load_adapter_tokenizer(source)
    require_vocabulary(source, tokenizer)
    held_out = load_rows_to_measure(trained, source, tokenizer, eval_dataset)
    settings = {"adapter": source.path, "base": base, "dtype": dtype, "eval_dataset": eval_dataset}
    inputs = inputs_hash(source, tokenizer, dtype, held_out and held_out[1].as_dict())
    if before.get("inputs_sha256") == inputs and weight_files(out):
        say(f"merge: already done in {out}")
        return out
    require_free_folder(out)
    with staged_folder(out, "merging") as folder:
        say(f"merge: {source.path} into {source.base}")
        settings["dtype"], classes = write_merged(source, tokenizer, dtype, folder)
        facts = {**measure_merge(folder, source, trained, tokenizer, held_out, settings["dtype"]), **classes}
        if task_of(source) == "SEQ_CLS":
            facts["reply_ending"] = reply_ending(tokenizer)
        facts |= {"seed": trained.get("seed"), "lineage": lineage, "inputs_sha256": inputs}
        write_card_and_record(folder, source, settings, started, **facts)
    say(f"merge: done in {time.time() - started:.0f} s")
    return out


def write_merged(source: Source, tokenizer, dtype: str, folder: Path) -> tuple[str, dict]:
    """Write the merged model; return the dtype of its weights, and the record's keys on its class."""
    # on the CPU, since float32 may not fit into the GPU that it was trained on
    model = load_base(source.base, source.base_revision, head=HEADS[task_of(source)], on=torch.device("cpu"))
    repair_generation_config(model, source.base)
    model = merge_adapter(model, source)
    dtype = cast_weights(model, dtype, source)
    save_model(model, tokenizer, folder)
    classes = {**describe_generic(model), **describe_multimodal(model)}
    del model
    release_memory()  # keeps one model at a time in memory
    return dtype, classes


def mergeable_source(adapter: str, revision: str, base: str | None) -> Source:
    """Return the source of an adapter that can be merged into its base.

    Raises:
        HfkitError: the adapter cannot be merged.
    """
    source = Source.of(adapter, revision, base)
    if source.adapter is None:
        raise HfkitError(f"{adapter} is not an adapter: it has no {ADAPTER_CONFIG}")
    kind, task = source.adapter.get("peft_type"), task_of(source)
    if kind != "LORA" or task not in [*HEADS]:
        raise HfkitError(f"{adapter} is a {kind} adapter for {task}: only LORA for {' or '.join(HEADS)} can be merged")
    status = (record_of(adapter, revision) or {}).get("status", "done")
    if status != "done":
        raise HfkitError(f"{adapter} is a run that is not done ({status}): finish it first")
    require_supported(source, to_merge=True)
    if task == "SEQ_CLS":
        require_reward_adapter(source)
    require_full_precision_base(source, adapter)
    require_fitting(source, task)
    return source


def task_of(source: Source) -> str:
    """Return the task type of an adapter; a bare backbone, or none, counts as a language model, as in the stages."""
    task = source.adapter.get("task_type")
    return "CAUSAL_LM" if task in (None, "FEATURE_EXTRACTION") else task


def require_full_precision_base(source: Source, adapter: str) -> None:
    """Raise HfkitError if the base is missing, not the one that the adapter was trained on, or stored quantized."""
    try:
        is_found = bool(source.base) and folder_of(source.base, source.base_revision) is not None
    except HubUnreachable:
        raise
    except HfkitError:
        is_found = False
    if not is_found:
        raise HfkitError(f"the base of {adapter}, {source.base!r}, is missing: name it with --base PATH")
    require_own_base(source)
    method = stored_quantization(source.base, source.base_revision)
    if method:
        raise HfkitError(
            f"the weights of {source.base} are stored quantized ({method}), and rounding would undo the merge: "
            "name the original full-precision model with --base PATH"
        )


def inputs_hash(source: Source, tokenizer, *options) -> str:
    """Return the SHA-256 of the inputs of a merge or an export: weights, config, tokenizer, and options."""
    weights = base_identity(source.base, source.base_revision), model_identity(source.path, source.revision)
    known = [one["weights_sha256"] or (one["path"], one["revision"]) for one in weights]
    return hash_of([known, source.adapter, tokenizer_hash(tokenizer), *options])


def load_adapter_tokenizer(source: Source):
    """Return the adapter's tokenizer, or that of its base if the adapter was saved without one.

    Raises:
        HfkitError: it cannot be read.
    """
    has_own = find_file(source.path, "tokenizer_config.json", source.revision) is not None
    path, revision = (source.path, source.revision) if has_own else (source.base, source.base_revision)
    return load_tokenizer(path, revision)


def load_rows_to_measure(trained: dict, source: Source, tokenizer, eval_dataset: str | None):
    """Return encoded held-out rows and their stats, or None if there is nothing to measure or there are no rows.

    Raises:
        HfkitError: `eval_dataset` cannot be read.
    """
    if eval_dataset is None and quantization_as_trained(source.path, source.revision) is None:
        return None
    try:
        return held_out_rows(trained, tokenizer, task_of(source) == "SEQ_CLS", eval_dataset)
    except HfkitError as error:
        if eval_dataset is not None:
            raise
        warn(f"merge: no held-out rows to measure the effect of the merge: name some with --eval_dataset\n{error}")
        return None


def cast_weights(model, dtype: str, source: Source) -> str:
    """Cast the merged weights in place and return the name of their dtype.

    Raises:
        HfkitError: some weights are not finite in that dtype.
    """
    if dtype == "auto":
        config = read_config(source.base, source.base_revision)
        dtype = str(config.dtype or torch.float32).removeprefix("torch.")
    model.to(getattr(torch, dtype))
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise HfkitError(f"some of the merged weights are not finite in {dtype}: choose another dtype")
    return dtype


def measure_merge(folder: Path, source: Source, trained: dict, tokenizer, held_out, dtype: str) -> dict:
    """Compare the adapter, as it was trained, with the merged model on held-out rows.

    Returns:
        `metrics`, `data` and `notes` for the record.
    """
    notes, base_name = [], "its base"
    quantization = quantization_as_trained(source.path, source.revision)
    if quantization is not None:
        base_name = f"its {4 if quantization.load_in_4bit else 8}-bit base"
        notes.append(f"The adapter was trained on {base_name} and merged into the full-precision weights.")
        if held_out is None:
            notes.append(UNMEASURED.format(why="since no held-out rows were given"))
    if held_out is None:
        return {"metrics": {}, "data": {}, "notes": notes}
    rows, stats = held_out
    head = HEADS[task_of(source)]
    options = {"dtype": trained["config"]["dtype"], "quantization": quantization} if quantization else {}
    try:
        model = load_base(source.base, source.base_revision, head=head, **options)
        model = load_adapter(model, source, to_merge=True)
    except HfkitError as error:
        warn(f"merge: the effect of the merge was not measured: {error}")
        notes.append(UNMEASURED.format(why=f"since {base_name} could not be loaded"))
        return {"metrics": {}, "data": {}, "notes": notes}
    before = measure(model, tokenizer, rows)
    del model
    release_memory()
    after = measure(load_base(str(folder), head=head, dtype=dtype), tokenizer, rows)
    metrics, sentence = comparison(before, after, f"the adapter on {base_name}")
    sentence = f"On {len(rows)} held-out rows {sentence}."
    say(f"merge: {sentence}")
    metrics = {"eval_rows": len(rows), **metrics}
    return {"metrics": metrics, "data": {"test": stats.as_dict()}, "notes": [*notes, sentence]}


def write_card_and_record(folder: Path, source: Source, settings: dict, started: float, **facts) -> None:
    """Write the model card and the record of the merged model; `facts` are further keys of the record."""
    record = {
        "stage": MERGE.name,
        "status": "done",
        "task_type": task_of(source),
        "config": settings,
        "config_sha256": hash_of(settings),
        "base": base_identity(source.base, source.base_revision),
        "environment": environment(),
        "warnings": take_warnings(),
        "wall_seconds": round(time.time() - started, 2),
        "peak_memory_bytes": peak_memory_bytes(),
        **facts,
    }
    write_card(folder, record)
    write_record(folder / RECORD, record)


def main(given: Namespace) -> int:
    """Run `hfkit merge`."""
    say(f"merge: the model is in {merge(**vars(given))}")
    return 0
