"""Translates the datasets that a config of another tool names, to entries of `datasets` and `eval_datasets`."""

from pathlib import Path

import yaml

from hfkit.commands.init.axolotl_data import axolotl_sources
from hfkit.commands.init.conversions import split_names
from hfkit.commands.init.foreign import ForeignConfig
from hfkit.commands.init.foreign_entries import ENTRY, RECOGNIZED, Sources, source_entry
from hfkit.config.registry import STAGES
from hfkit.core.errors import Problem
from hfkit.core.files import read_json_mapping

ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
SHAREGPT = {"messages": "conversations"}
"""Columns that LLaMA-Factory reads if dataset_info.json names none."""
UNREAD_COLUMNS = ("images", "videos", "audios", "kto_tag")
"""Columns of dataset_info.json that hfkit never reads, whatever their names."""
READ_OF_INFO = {"file_name", "hf_hub_url", "subset", "split", "num_samples", "columns", "tags"}
READ_OF_INFO |= {"formatting", "ranking", "ms_hub_url", "om_hub_url"}
"""Fields of dataset_info.json that are translated, that the columns of the rows show, or that name another hub."""
UNREAD = "hfkit reads no such field of a dataset"
TAGS = {"role_tag": ("from", "role"), "content_tag": ("value", "content"), "user_tag": ("human", "user")}
TAGS |= {"assistant_tag": ("gpt", "assistant"), "system_tag": ("system",), "observation_tag": ("observation", "tool")}
TAGS |= {"function_tag": ("function_call",)}
"""Names in messages that hfkit recognizes."""


def llamafactory_sources(config: ForeignConfig) -> Sources:
    """Return the datasets that `dataset` and `eval_dataset` name, looked up in dataset_info.json."""
    given, found = config.given, Sources()
    named = str(given.get("dataset_dir", "data"))
    folders = [Path(named), Path(config.path).parent / named]
    folder = next((one for one in folders if (one / "dataset_info.json").is_file()), folders[0])
    file = folder / "dataset_info.json"
    info = read_json_mapping(file)
    if info is None and file.is_file():
        found.undecided.append(Problem("dataset_dir", str(file), "not a JSON mapping of datasets: correct it"))
    for key, ours in (("dataset", "datasets"), ("eval_dataset", "eval_datasets")):
        if names := split_names(given.get(key)):
            found.entries[ours] = [
                llamafactory_entry(name, key, info or {}, folder, config.stage, found) for name in names
            ]
            found.read.add(key)
    found.read.add("dataset_dir")
    if isinstance(most := given.get("max_samples"), int):
        for entry in (entry for entries in found.entries.values() for entry in entries):
            take_first_rows(entry, most)
        found.read.add("max_samples")
    sources, weights = found.entries.get("datasets", []), split_names(given.get("interleave_probs"))
    if given.get("mix_strategy") == "interleave_under" and len(weights or sources) == len(sources):
        for entry, weight in zip(sources, weights or ["1.0"] * len(sources), strict=True):
            entry["weight"] = yaml.safe_load(weight)
        found.read |= {"interleave_probs", "mix_strategy"}
    return found


def take_first_rows(entry: dict, most: int) -> None:
    """Limit an entry to its first rows, before rows are held out; rows of a part of a split are drawn at random."""
    split, rows = entry.get("split", "train"), entry.get("rows", most)
    if "rows" in entry or not str(split).isidentifier():
        entry["rows"] = min(most, rows) if isinstance(rows, int) else rows
    else:
        entry["split"] = f"{split}[:{most}]"


def llamafactory_entry(name: str, key: str, info: dict, folder: Path, stage: str, found: Sources) -> dict:
    """Return the entry of a dataset by its description in dataset_info.json."""
    described = info.get(name)
    if not isinstance(described, dict):
        if not Path(name).exists() and "/" not in name:
            remedy = f"not in {folder / 'dataset_info.json'}: write its file or Hub id as path"
            found.undecided.append(Problem(key, name, remedy))
        return {"path": name}
    where = f"dataset_info.json: {name}"
    described = described | {
        one: text_values(described.get(one), f"{where}.{one}", found) for one in ("columns", "tags")
    }
    hub_id, file = described.get("hf_hub_url"), described.get("file_name")
    if not hub_id and not file:
        remedy = "it has neither file_name nor hf_hub_url: write its file or Hub id as path"
        found.undecided.append(Problem(f"dataset_info.json: {name}", [*described], remedy))
    entry = {"path": str(folder / str(file)) if file and not hub_id else str(hub_id or name)}
    for theirs, ours in (("subset", "name"), ("split", "split"), ("num_samples", "rows")):
        if described.get(theirs) is not None and (theirs, described[theirs]) != ("split", "train"):
            entry[ours] = described[theirs]
    entry |= llamafactory_columns(described, stage, where, found)
    unread = [one for one in described if one not in READ_OF_INFO and described[one] is not None]
    found.undecided += [Problem(f"{where}.{one}", described[one], UNREAD) for one in unread]
    for tag, value in described["tags"].items():
        if value not in TAGS.get(tag, ()):
            remedy = "hfkit reads role and content, or from and value: rename it in the data"
            found.undecided.append(Problem(f"dataset_info.json: {name}.tags.{tag}", value, remedy))
    return entry


def text_values(given: object, where: str, found: Sources) -> dict[str, str]:
    """Return the texts in a mapping; anything else is left to the user."""
    items = given if isinstance(given, dict) else {}
    if given is not None and not isinstance(given, dict):
        found.undecided.append(Problem(where, given, "expected a mapping"))
    wrong = {one: value for one, value in items.items() if value is not None and not isinstance(value, str)}
    found.undecided += [Problem(f"{where}.{one}", value, "expected text") for one, value in wrong.items()]
    return {one: value for one, value in items.items() if isinstance(value, str)}


def llamafactory_columns(described: dict, stage: str, where: str, found: Sources) -> dict:
    """Return `columns` and `convert` of an entry, such that hfkit reads the columns that LLaMA-Factory reads.

    LLaMA-Factory reads only columns that dataset_info.json names, and joins instruction and input by one line break.
    """
    is_alpaca = described.get("formatting") in (None, "alpaca")
    named = described["columns"] or (ALPACA if is_alpaca else SHAREGPT)
    if STAGES[stage].form == "comparisons" and not {"chosen", "rejected"} <= named.keys():
        return {}  # pairs need both; hfkit recognizes the usual names
    for one in UNREAD_COLUMNS:
        if one in named:
            found.undecided.append(Problem(f"{where}.columns.{one}", named[one], "hfkit reads no such column"))
    columns = alpaca_columns(named, stage) if is_alpaca else conversation_columns(named)
    columns |= {one: named[one] for one in ("history", "system", "tools") if one in named}
    is_joined = bool({"query", "history"} & {*named}) or columns.get("prompt") == "instruction"
    recognized = {*RECOGNIZED, ("prompt", "conversations")}
    if not is_joined and all(ours == theirs or (ours, theirs) in recognized for ours, theirs in columns.items()):
        return {}
    convert = ["history"] * ("history" in named) + ["function_calls"] * ("tools" in named and not is_alpaca)
    return {"columns": columns} | ({"convert": convert} if convert else {})


def alpaca_columns(named: dict, stage: str) -> dict:
    """Return the columns of a prompt and of its response or pair, or those of a text."""
    prompts = [named[one] for one in ("prompt", "query") if one in named]
    prompt = prompts[0] if len(prompts) == 1 else "\n".join(f"{{{one}}}" for one in prompts)
    if STAGES[stage].form == "text":
        return {"text": prompt} if prompts else {}
    replies = {"comparisons": ("chosen", "rejected"), "prompts": ()}.get(STAGES[stage].form, ("response",))
    return ({"prompt": prompt} if prompts else {}) | {one: named[one] for one in replies if one in named}


def conversation_columns(named: dict) -> dict:
    """Return the column of a conversation, or those of pairs, whose conversation is the prompt."""
    pair = {one: named[one] for one in ("chosen", "rejected") if one in named}
    return {"prompt" if pair else "messages": named.get("messages", "conversations"), **pair}


def trl_sources(config: ForeignConfig) -> Sources:
    """Return the dataset that `dataset_name` names, with its splits, or the mixture in `datasets`."""
    given, found = config.given, Sources()
    if "dataset_name" in given:
        entry = {"path": given["dataset_name"]}
        fields = {"dataset_config": "name", "dataset_streaming": "streaming"}
        entry |= {ours: given[theirs] for theirs, ours in fields.items() if given.get(theirs)}
        if (text := given.get("dataset_text_field", "text")) != "text":
            entry["columns"] = {"text": text}
        split = given.get("dataset_train_split", "train")
        found.entries["datasets"] = [entry if split == "train" else {**entry, "split": split}]
        if given.get("eval_strategy", "no") not in ("no", False):
            found.entries["eval_datasets"] = [{**entry, "split": given.get("dataset_test_split", "test")}]
        found.read |= {"dataset_name", *fields, "dataset_text_field", "dataset_train_split", "dataset_test_split"}
    elif isinstance(given.get("datasets"), list):
        items = [one if isinstance(one, dict) else {"path": one} for one in given["datasets"]]
        found.entries["datasets"] = [*map(source_entry, items)]
        found.undecided += [
            Problem(f"datasets[{index}].{name}", value, UNREAD)
            for index, item in enumerate(items)
            for name, value in item.items()
            if name not in (*ENTRY, "data_files") and value is not None
        ]
        found.read.add("datasets")
    return found


SOURCES = {"LLaMA-Factory": llamafactory_sources, "axolotl": axolotl_sources, "TRL": trl_sources}
"""Tool -> its function."""
