"""Translates the datasets that a config of another tool names, to entries of `datasets` and `eval_datasets`."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hfkit.commands.init.conversions import split_names
from hfkit.commands.init.foreign import ForeignConfig
from hfkit.commands.init.prompt_formats import axolotl_format
from hfkit.config.other_tools import table
from hfkit.config.registry import STAGES
from hfkit.core.errors import MISSING, Problem
from hfkit.core.files import read_json_mapping

ENTRY = {"path": "path", "name": "name", "split": "split", "revision": "revision"}
"""Fields of a dataset that have the same name and meaning in hfkit."""
AXOLOTL_COLUMNS = {
    "field_messages": "messages",
    "field": "text",
    "text_column": "text",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
}
USER_DEFINED = {"field_system", "field_instruction", "field_input", "field_output"}
USER_DEFINED |= {"system_prompt", "system_format", "format", "no_input_format"}
"""Fields of a mapping in axolotl's `type`."""
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
SHAREGPT = {"messages": "conversations"}
"""Columns that LLaMA-Factory reads if dataset_info.json names none."""
RECOGNIZED = {("prompt", "instruction"), ("response", "output"), ("messages", "conversations")}
"""Columns of hfkit with the names that it recognizes without a mapping, in addition to their own."""
UNREAD_COLUMNS = ("images", "videos", "audios", "kto_tag")
"""Columns of dataset_info.json that hfkit never reads, whatever their names."""
READ_OF_INFO = {"file_name", "hf_hub_url", "subset", "split", "num_samples", "columns", "tags"}
READ_OF_INFO |= {"formatting", "ranking", "ms_hub_url", "om_hub_url"}
"""Fields of dataset_info.json that are translated, that the columns of the rows show, or that name another hub."""
FORMATTED = "hfkit formats rows by their columns and the chat template: see columns of datasets"
UNREAD = "hfkit reads no such field of a dataset"
TAGS = {"role_tag": ("from", "role"), "content_tag": ("value", "content"), "user_tag": ("human", "user")}
TAGS |= {"assistant_tag": ("gpt", "assistant"), "system_tag": ("system",), "observation_tag": ("observation", "tool")}
TAGS |= {"function_tag": ("function_call",)}
"""Names in messages that hfkit recognizes."""

CHAT_TYPE = re.compile(r"chat_template|sharegpt.*|completion")
"""Types of axolotl's datasets for SFT whose prompts are those of the model's chat template, or that have none."""
PAIR_TEMPLATES = ("chatml", "llama3", "zephyr")
"""Types of axolotl's datasets for DPO that have a built-in template's prompts, whatever the model's."""
OWN_FORMAT = "write the prompts as a Jinja file, and name it in chat_template"

USUAL = {
    "message_property_mappings": ({"role": "role", "content": "content"}, {"role": "from", "content": "value"}),
    "roles": tuple(
        {name: [name] for name in names} for names in (("user", "assistant"), ("system", "user", "assistant"))
    ),
    "message_field_role": ("role", "from"),
    "message_field_content": ("content", "value"),
    "roles_to_train": (["assistant"], ["gpt"], ["assistant", "gpt"]),
    "train_on_eos": ("turn",),
}
"""Fields of axolotl's datasets -> values that say what hfkit does without them."""


@dataclass
class Sources:
    """Entries of hfkit's keys of datasets.

    Attributes:
        entries: key of hfkit -> entries.
        read: keys of the other tool that were translated.
        undecided: what could not be.
        templates: a chat template for each entry, as Jinja, that writes prompts as the tool does; "" for the model's.
    """

    entries: dict[str, list[dict]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    undecided: list[Problem] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)


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


def columns_key(columns: dict[str, str], context: str | None) -> dict:
    """Return the key `columns` of an entry; {} if hfkit recognizes the columns by their names.

    Args:
        columns: hfkit's columns -> those of the data.
        context: the column whose text follows that of the prompt.
    """
    is_mixed = columns.get("prompt") == "prompt" and columns.get("response") == "output"
    known = all(ours == theirs or (ours, theirs) in RECOGNIZED for ours, theirs in columns.items())
    if known and not is_mixed and context in (None, "input"):
        return {}
    if context and "prompt" in columns:
        return {"columns": {**columns, "prompt": f"{{{columns['prompt']}}}\n{{{context}}}"}}
    return {"columns": columns}


def axolotl_sources(config: ForeignConfig) -> Sources:
    """Return the datasets in `datasets`, `test_datasets` and `pretraining_dataset`."""
    found = Sources()
    keys = {"datasets": "datasets", "test_datasets": "eval_datasets", "pretraining_dataset": "datasets"}
    for key, ours in keys.items():
        given = config.given.get(key)
        if given:
            items = given if isinstance(given, list) else [given]
            found.entries[ours] = [
                axolotl_entry(one, f"{key}[{index}]", found, STAGES[config.stage].form)
                for index, one in enumerate(items)
            ]
            found.read.add(key)
    return found


def source_entry(item: dict) -> dict:
    """Return the entry of the files or the Hub dataset that an item names."""
    entry = {ours: item[theirs] for theirs, ours in ENTRY.items() if item.get(theirs) is not None}
    entry = {name: value for name, value in entry.items() if (name, value) != ("split", "train")}
    return entry | ({"path": item["data_files"]} if isinstance(item.get("data_files"), str) else {})


def axolotl_entry(item: object, where: str, found: Sources, form: str) -> dict:
    """Return the entry of an item of axolotl's `datasets`.

    Args:
        form: the form of the rows that the stage reads.
    """
    if not isinstance(item, dict):
        return {"path": item}
    entry, kind = source_entry(item), item.get("type")
    columns = {ours: item[theirs] for theirs, ours in AXOLOTL_COLUMNS.items() if item.get(theirs)}
    found.templates.append("")
    if form == "instructions" and isinstance(kind, (str, dict)):
        columns |= format_columns(kind, where, found)
    elif form == "comparisons":
        found.templates[-1] = template_of_pairs(kind, where, found)
    entry |= {"columns": columns} if columns.get("prompt") else columns_key(columns, None)
    needless = {*ENTRY, *AXOLOTL_COLUMNS, "type", "ds_type", "data_files"}
    needless |= {name for name, values in USUAL.items() if item.get(name) in values}
    rest = {f"{where}.{name}": value for name, value in item.items() if name not in needless}
    for name, value in rest.items():
        if value not in (None, "", False):
            say = table()["keys"].get(name.rpartition(".")[2], {}).get("say", FORMATTED)
            found.undecided.append(Problem(name, value, say))
    return entry


def template_of_pairs(kind: object, where: str, found: Sources) -> str:
    """Return the built-in chat template that writes the pairs of a type of axolotl's datasets; "" for the model's."""
    family = str(kind or "").partition(".")[0]
    if family in PAIR_TEMPLATES:
        return family
    if family != "chat_template" and kind != "bradley_terry.chat_template":
        say = f"axolotl does not write them by the model's chat template: {OWN_FORMAT}"
        found.undecided.append(Problem(f"{where}.type", kind if kind else MISSING, say))
    return ""


def format_columns(kind: str | dict, where: str, found: Sources) -> dict[str, str]:
    """Return the columns of a type of axolotl's datasets; its prompts become the last of the templates."""
    unknown = [name for name in kind if name not in USER_DEFINED] if isinstance(kind, dict) else []
    found.undecided += [Problem(f"{where}.type.{name}", kind[name], FORMATTED) for name in unknown]
    try:
        written = axolotl_format(kind)
    except ValueError as error:
        found.undecided.append(Problem(f"{where}.type", kind, f"{error}: {OWN_FORMAT}"))
        return {}
    if written is not None:
        found.templates[-1] = written[0].template
        return written[1]
    if kind == "completion":
        say = "axolotl splits a text longer than sequence_len, hfkit cuts it: use hfkit pretrain, or shorter texts"
        found.undecided.append(Problem(f"{where}.type", kind, say))
    elif not CHAT_TYPE.fullmatch(kind):
        found.undecided.append(
            Problem(f"{where}.type", kind, f"axolotl writes its prompts without the chat template: {OWN_FORMAT}")
        )
    return {}


def trl_sources(config: ForeignConfig) -> Sources:
    """Return the dataset that `dataset_name` names, with its splits, or the mixture in `datasets`."""
    given, found = config.given, Sources()
    if "dataset_name" in given:
        entry = {"path": given["dataset_name"]}
        fields = {"dataset_config": "name", "dataset_streaming": "streaming"}
        entry |= {ours: given[theirs] for theirs, ours in fields.items() if given.get(theirs)}
        split = given.get("dataset_train_split", "train")
        found.entries["datasets"] = [entry if split == "train" else {**entry, "split": split}]
        if given.get("eval_strategy", "no") not in ("no", False):
            found.entries["eval_datasets"] = [{**entry, "split": given.get("dataset_test_split", "test")}]
        found.read |= {"dataset_name", *fields, "dataset_train_split", "dataset_test_split"}
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
