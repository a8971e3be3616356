"""Translates the datasets that a config of axolotl names."""

import re

from hfkit.commands.init.foreign import ForeignConfig
from hfkit.commands.init.foreign_entries import ENTRY, RECOGNIZED, Sources, source_entry
from hfkit.commands.init.prompt_formats import axolotl_format
from hfkit.config.other_tools import table
from hfkit.config.registry import STAGES
from hfkit.core.errors import MISSING, Problem

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
FORMATTED = "hfkit formats rows by their columns and the chat template: see columns of datasets"
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
    if "prompt" in columns or not all(one == name or (one, name) in RECOGNIZED for one, name in columns.items()):
        entry["columns"] = columns
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
