"""Writes reference/keys.md: every config key with its type, default and meaning, from the config dataclasses."""

import re
from collections.abc import Collection
from dataclasses import MISSING, Field, fields
from inspect import get_annotations
from types import NoneType
from typing import get_args, get_origin

import yaml

from hfkit.config.evaluation import ArenaConfig, BenchConfig, EvaluateConfig, SampleConfig
from hfkit.config.fields import (
    REFUSED,
    DataFields,
    DatasetEntry,
    HubFields,
    ModelFields,
    OutputFields,
    SourceFields,
)
from hfkit.config.labeling import LabelConfig, RoundsConfig
from hfkit.config.online import OnlineConfig
from hfkit.config.registry import STAGES
from hfkit.config.stages import PPO_READS, GroupConfig
from hfkit.config.trainer_fields import OptimizerFields, TrainerFields
from hfkit.config.validation import choices_of, default_of, describe_type, known_fields, union_members
from hfkit.stages.pipeline_file import KEYS

SHARED = {
    ModelFields: ("Model and adapter", "Which model a stage starts from, how it is loaded, and what is trained of it."),
    SourceFields: ("Training data", "The rows to train on. Each item is a [dataset entry](#dataset-entries)."),
    DataFields: ("Held-out data", "The rows to evaluate on, and how many rows may be lost."),
    OptimizerFields: ("Batches and optimizer", "The keys have the names of Transformers' `TrainingArguments`."),
    TrainerFields: (
        "Length, logging, evaluation, checkpoints",
        "How long a run is, and what it writes while it trains.",
    ),
    OutputFields: ("Output", "Where a run is written, its seed and its license."),
    HubFields: ("Hub", "Whether a finished run is pushed. These keys do not change what a run trains."),
    OnlineConfig: ("Rewards and rollouts", "Where rewards come from, and how responses are sampled."),
    GroupConfig: ("Groups of responses", "Several responses to each prompt are compared with one another."),
}
"""The title and the purpose of each group of keys that several stages share."""
PIPELINE_KEYS = {
    "extends": ("path or list of paths", "none", "pipelines to start from; later files replace keys of earlier ones"),
    "output_dir": ("text", "required", "folder of the runs; each stage writes to the folder of its name in it"),
    "stages": (
        "mapping",
        "required",
        "from the name of a stage to its YAML file, its keys, or a list of these, of which later ones replace keys of "
        "earlier ones",
    ),
    "rounds": (
        "mapping",
        "none",
        "how often the reward model and RL are repeated on new labels: see [rounds](#keys-of-rounds)",
    ),
}
VERB_CONFIGS = {
    "evaluate": EvaluateConfig,
    "arena": ArenaConfig,
    "sample": SampleConfig,
    "label": LabelConfig,
    "bench": BenchConfig,
}
INTRODUCTION = """---
search:
  boost: 4
---

# Config keys

Every stage reads one YAML file with the keys of this page. A flag `--key value` replaces the key of the file.

```yaml title="my-sft.yaml"
model_name_or_path: my-model
datasets: my-instructions.jsonl
use_peft: true
output_dir: runs/my-sft
```

A key that has the default "none" is not set. Its meaning says what happens then. An unknown key is an error.
"""


REFUSED_TITLES = {"all": "All stages", "reward": "Reward models", "dpo": "DPO", "groups": "GRPO and RLOO"}


def keys_page() -> str:
    """Return the page as Markdown."""
    page = Page()
    page.lines.append(INTRODUCTION)
    for name, spec in STAGES.items():
        page.add_stage(name, spec)
    for group, (title, purpose) in SHARED.items():
        page.add_heading(2, title, anchor(title))
        page.lines.append(
            f"{purpose}\n\nStages: {', '.join(link(STAGES[name].title, name) for name in having(group))}.\n"
        )
        page.add_table(anchor(title), group, own_keys(group))
    page.add_heading(2, "Dataset entries", "dataset-entries")
    page.lines.append(
        "An item of `datasets`, `eval_datasets`, `ptx_datasets` or `prompts`. A text alone is the name of a data card, "
        "a file, a folder or a Hub id.\n"
    )
    page.add_table("dataset", DatasetEntry, known_fields(DatasetEntry))
    page.add_heading(2, "Pipelines", "pipelines")
    page.lines.append("The YAML file of `hfkit run`.\n")
    page.add_rows("pipeline", {key: PIPELINE_KEYS[key] for key in KEYS})
    for verb, config_class in VERB_CONFIGS.items():
        page.add_heading(2, f"`hfkit {verb}`", verb)
        page.lines.append(f"{config_class.__doc__}\n")
        page.add_table(verb, config_class, known_fields(config_class))
    page.add_heading(2, "Rounds", "keys-of-rounds")
    page.lines.append("The mapping `rounds` of a pipeline: [Rounds](../stages/pipelines.md#rounds).\n")
    page.add_table("rounds", RoundsConfig, known_fields(RoundsConfig))
    page.add_heading(2, "Refused keys", "refused-keys")
    page.lines.append(
        "A stage accepts every other field of its trainer's config, such as `neftune_noise_alpha`, except these. PPO "
        f"accepts only {', '.join(f'`{name}`' for name in PPO_READS)}.\n"
    )
    for group, remedies in REFUSED.items():
        page.add_heading(3, REFUSED_TITLES[group], f"refused-{group}")
        page.lines += ["| key | what to do instead |", "|---|---|"]
        page.lines += [f"| `{key}` | {cell(remedy)} |" for key, remedy in remedies.items()]
        page.lines.append("")
    return "\n".join(page.lines)


class Page:
    """The lines of the page, and the anchors that are in use."""

    def __init__(self):
        self.lines: list[str] = []
        self.anchors = {*STAGES, *(anchor(title) for title, _ in SHARED.values())}
        self.shared_keys = {key for group in SHARED for key in own_keys(group)}

    def add_heading(self, level: int, title: str, name: str) -> None:
        """Add a heading with an anchor."""
        self.anchors.add(name)
        self.lines.append(f"{'#' * level} {title} {{#{name}}}\n")

    def add_stage(self, name: str, spec) -> None:
        """Add the keys that only this stage has, or has with other defaults, and links to those that it shares."""
        self.add_heading(2, spec.title, name)
        self.lines.append(f"`hfkit {name}`. {spec.config_class.__doc__}\n")
        self.add_table(name, spec.config_class, own_keys(spec.config_class))
        groups = [group for group in SHARED if name in having(group)]
        self.lines.append(f"Keys that it shares: {', '.join(link(SHARED[group][0]) for group in groups)}.\n")

    def add_table(self, section: str, config_class: type, names: Collection[str]) -> None:
        """Add a table of the fields of a class that are in `names`."""
        hints, rows = known_fields(config_class), {}
        for field in fields(config_class):
            if field.name in hints and field.name in names:
                meaning = field.metadata["help"]
                others = [name for name in having(config_class) if declaring(name, field.name) is not config_class]
                if others:
                    meaning += f"; differs in {', '.join(link(STAGES[name].title, name) for name in others)}"
                rows[field.name] = (type_text(hints[field.name], field.default), default_text(field), cell(meaning))
        self.add_rows(section, rows)

    def add_rows(self, section: str, rows: dict[str, tuple[str, str, str]]) -> None:
        """Add a table of keys with type, default and meaning, each with an anchor: `#key`, or `#section-key`."""
        self.lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        is_shared = section in {anchor(title) for title, _ in SHARED.values()}
        for key, (kind, default, meaning) in rows.items():
            is_taken = key in self.anchors or (key in self.shared_keys and not is_shared)
            name = f"{section}-{key}" if is_taken else key
            self.anchors.add(name)
            self.lines.append(f'| <span id="{name}"></span>`{key}` | {kind} | {default} | {meaning} |')
        self.lines.append("")


def own_keys(group: type) -> set[str]:
    """Return the keys in the table of a group or of a stage: those of its class and of bases without a table."""
    return set(get_annotations(group)).union(*(own_keys(base) for base in group.__bases__ if base not in SHARED))


def declaring(stage: str, key: str) -> type | None:
    """Return the class in whose table a key of a stage stands."""
    return next((base for base in STAGES[stage].config_class.__mro__ if key in own_keys(base)), None)


def having(group: type) -> list[str]:
    """Return the stages whose config has the keys of a group."""
    return [name for name, spec in STAGES.items() if issubclass(spec.config_class, group)]


def anchor(title: str) -> str:
    """Return the anchor of a group's heading."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def link(title: str, name: str = "") -> str:
    """Return a link to a heading of the page."""
    return f"[{title}](#{name or anchor(title)})"


def cell(text: str) -> str:
    """Return a text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def type_text(hint: object, default: object) -> str:
    """Return a type as readers see it; "none" is named only where it is not the default."""
    members = [member for member in union_members(hint) if member is not NoneType or default is not None]
    return " or ".join(member_text(member) for member in members)


def member_text(hint: object) -> str:
    """Return a type other than a union, as readers see it."""
    if choices := choices_of(hint):
        return ", ".join(f"`{choice}`" for choice in choices)
    items = get_args(hint) if get_origin(hint) is list else (hint,)
    if DatasetEntry in items:
        return "[dataset entries](#dataset-entries)"
    if items and choices_of(items[0]):
        return f"list of {member_text(items[0])}"
    return describe_type(hint)


def default_text(field: Field) -> str:
    """Return a default as it is written in YAML."""
    default = default_of(field)
    if default is MISSING:
        return "required"
    if default is None:
        return "none"
    text = yaml.safe_dump(default, default_flow_style=True).removesuffix("...\n").strip()
    return f"`{text}`"
