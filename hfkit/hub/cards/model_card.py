"""The model card of a run: its sections and their tables, made from the record."""

import json
import math
from functools import partial
from pathlib import Path, PurePath

import yaml
from safetensors import safe_open

from hfkit.config.fields import REVISION_KEYS
from hfkit.core.files import write_text
from hfkit.core.masking import without_secrets
from hfkit.hub.cards.hand_edits import README, ParsedCard, read_card, regenerate_card, short_hash, with_edit_hash
from hfkit.hub.cards.licenses import NO_LICENSE
from hfkit.hub.cards.limitations import limitations_section
from hfkit.hub.cards.markdown import escape_markdown, fenced, markdown_table, quoted
from hfkit.hub.cards.metric_descriptions import describe_metric, metric_text, numbers_in
from hfkit.hub.cards.model_metadata import model_metadata
from hfkit.hub.cards.run_info import RunInfo, dataset_id, hub_id, model_name
from hfkit.hub.cards.usage import usage_section
from hfkit.hub.published_record import without_local_paths, without_paths
from hfkit.records.given_rows import GIVEN, is_given
from hfkit.records.lineage import lineage_edges
from hfkit.records.record import weight_files
from hfkit.records.source import ADAPTER_CONFIG

NO_EDITS = short_hash(*ParsedCard().edits())
"""The hash of the edits in a card that has none."""
CARD_SAMPLES = 4
ROLE_NAMES = {"start": "starting model", "reward": "reward model"}
"""How the card names roles of the lineage; it shows other roles unchanged."""
# Settings that other sections show, or that name local files.
HIDDEN_SETTINGS = {
    *("datasets", "eval_datasets", "ptx_datasets", "eval_dataset", "license", "seed"),
    *REVISION_KEYS,
}


def write_card(folder: Path, record: dict) -> None:
    """Write a folder's README.md from its record, and keep what people edited in the present one."""
    existing = read_card(folder)
    edit_hash = ParsedCard.of(existing or "").edit_hash
    card = updated_card(existing, folder, without_secrets(record))
    write_text(folder / README, with_edit_hash(card, NO_EDITS if edit_hash is None else edit_hash))


def updated_card(existing: str | None, folder: Path, record: dict, repo_id: str | None = None) -> str:
    """Return the card of a folder, with what people edited in the existing one.

    Args:
        existing: the card in the folder or on the Hub, with or without hfkit's markers; None if there is none.
        record: of the run; models that it names with a revision are on the Hub.
        repo_id: to push to; None for a card that stays in its folder.

    Raises:
        HfkitError: the metadata of the existing card cannot be read.
    """
    info = RunInfo(Path(folder), record, repo_id)
    return regenerate_card(existing, model_metadata(info), partial(model_card_body, info))


def model_card_body(info: RunInfo, metadata: dict) -> str:
    """Return the generated text of a card with this metadata, which may be edited; empty sections are left out."""
    sections = {
        "Usage": usage_section,
        "Metrics": metrics_section,
        "Samples": samples_section,
        "Limitations": limitations_section,
        "Data": data_section,
        "Lineage": lineage_section,
        "Settings": settings_section,
    }
    parts = [f"# {info.name}", *introduction(info, metadata)]
    for title, section in sections.items():
        text = section(info)
        if text:
            parts.append(f"## {title}\n\n{text}")
    return "\n\n".join(parts)


def introduction(info: RunInfo, metadata: dict) -> list[str]:
    """Return paragraphs on purpose, size, base and license."""
    record = info.record
    purpose = " ".join(spec.purpose for spec in info.specs) or f"The result of a run of the stage `{info.stage}`."
    parts = [f"{purpose} {info.reward_sources}".strip(), *map(without_paths, record.get("notes", []))]
    if record["status"] != "done":
        parts.append("Training is not finished: these are the weights of a checkpoint.")
    parameters = count_parameters(info.folder)
    size = f"{parameters:,} parameters" if parameters else ""
    base = f"`{model_name(info.base)}`" if info.base else ""
    if info.is_adapter:
        rank = json.loads((info.folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("r")
        facts = [f"A LoRA adapter of rank {rank}", size and f"with {size}", base and f"on the base {base}"]
    else:
        facts = [size, base and not info.is_merged and f"trained from {base}"]
    parts += [", ".join(filter(None, facts)) + "."] * any(facts)
    if "license" not in metadata:
        parts.append(f"{NO_LICENSE} Its training data and the models that it started from have their own licenses.")
    return parts


def count_parameters(folder: Path) -> int:
    """Return the number of parameters in the weights of a folder."""
    count = 0
    for file in weight_files(folder):
        with safe_open(file, framework="np") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    return count


def metrics_section(info: RunInfo) -> str:
    """Return the metrics of training and of a later evaluation, with their meaning, and the plot of the training."""
    parts = [metrics_table(info.stage, info.record["metrics"])]
    if "evaluation" in info.record:
        evaluation = info.record["evaluation"]
        rows = evaluation["data"].get("test", {}).get("kept")
        on = f" on {rows:,} held-out rows" if rows else ""
        parts += [f"Evaluated{on}, with 95% intervals:", metrics_table("evaluation", evaluation["metrics"])]
    if (info.folder / "loss.png").is_file():
        parts.append("![Loss and other metrics during training](loss.png)")
    return "\n\n".join(filter(None, parts))


def metrics_table(origin: str, metrics: dict) -> str:
    """Return the table of metrics of a stage, or of "evaluation"; "" without any."""
    keys = numbers_in(metrics)
    rows = [(f"`{key}`", metric_text(metrics, key), describe_metric(origin, key).meaning) for key in keys]
    return markdown_table(("metric", "value", "meaning"), rows) if rows else ""


def samples_section(info: RunInfo) -> str:
    """Return responses to held-out prompts before and after training, if the run wrote samples."""
    file = info.folder / "samples.jsonl"
    lines = file.read_text(encoding="utf-8").split("\n")[:-1][:CARD_SAMPLES] if file.is_file() else []
    parts = ["Responses to the first held-out prompts, not hand-picked:"] * bool(lines)
    for number, sample in enumerate(map(json.loads, lines), 1):
        parts += [
            f"**Prompt {number}**",
            quoted_prompt(sample),
            *(sampled(sample, when) for when in ("before", "after")),
        ]
    return "\n\n".join(parts)


def quoted_prompt(sample: dict) -> str:
    """Return the messages of a sample's prompt with their roles; if they are unknown, the text that the model reads."""
    turns = [(one["role"], one["content"]) for one in sample.get("messages") or []]
    turns = turns or [("as the model reads it", sample["prompt"])]
    return "\n>\n".join(quoted(text.strip(), f"**{escape_markdown(role)}:** ") for role, text in turns)


def sampled(sample: dict, when: str) -> str:
    """Return the response of a sample before or after training, with its reward if it has one."""
    reward = sample.get(f"reward_{when}")
    scored = "" if reward is None else f" (reward {reward:.2f})"
    return f"Response {when} training{scored}:\n\n{quoted(sample[when].strip() or '(empty)')}"


def data_section(info: RunInfo) -> str:
    """Return the number of rows and tokens in each split, and the sources of the rows."""
    splits = info.record["data"]
    rows = [
        (name, f"{split['rows']:,}", f"{split['kept']:,}", f"{split['cut']:,}", f"{split['tokens']:,}")
        for name, split in splits.items()
    ]
    sources = [
        f"- {name}: {source_line(source, is_mixed='mixed' in split)}"
        for name, split in splits.items()
        for source in split["sources"]
    ]
    table = markdown_table(("split", "rows", "kept", "truncated", "tokens"), rows)
    return f"{table}\n\n" + "\n".join(sources) if rows else ""


def source_line(source: dict, is_mixed: bool) -> str:
    """Return a source of rows in a line: link or file name, revision, data card, split, hash, share of a mixture."""
    if "held_out_of" in source:
        return f"held out from {source['held_out_of']}"
    on_hub, taken = dataset_id(source), source.get("taken")
    name = f"[{on_hub}](https://huggingface.co/datasets/{on_hub})" if on_hub else quoted_name(source["path"])
    parts = [f"{name} at `{source['revision']}`" if source.get("revision") else name]
    parts += [f"data card `{PurePath(source['card']).stem}`"] if source.get("card") else []
    parts += [f"`{source['split']}`"] if source.get("split", "train") != "train" else []
    parts += [f"{source['rows']:,} rows", f"sha256 `{source['sha256'][:12]}`"]
    if is_mixed and taken:
        parts.append(f"{taken['share']:.0%} of the mixture, each row {taken['epochs']:g} times per epoch")
    return ", ".join(parts)


def quoted_name(path: str) -> str:
    """Return the name of a local file or folder of rows as Markdown."""
    return GIVEN if is_given(path) else f"`{PurePath(path).name}`"


def lineage_section(info: RunInfo) -> str:
    """Return a table of the models that this one comes from, each once: its base, its parents, and theirs."""
    record, rows, seen = info.record, [], set()

    def add(role: str, model: dict) -> None:
        name, weights = model_name(model), (model.get("weights_sha256") or "")[:12]
        if (name, weights) in seen:
            return
        seen.add((name, weights))
        at = f" at `{model['revision'][:12]}`" if model.get("revision") else ""
        link = f"[{name}](https://huggingface.co/{name}){at}" if hub_id(model) else "local, not pushed"
        rows.append((role, f"`{name}`", link, f"`{weights}`" if weights else ""))

    if record.get("base"):
        add("base of the adapter" if info.is_adapter else "base", record["base"])
    for parent, child in lineage_edges(record["lineage"]):
        role, child_role = (ROLE_NAMES.get(model["role"], model["role"]) if model else "" for model in (parent, child))
        add(f"{role} of {child['stage'] or child_role}" if child else role, parent)
    return markdown_table(("role", "model", "on the Hub", "sha256 of the weights"), rows) if rows else ""


def settings_section(info: RunInfo) -> str:
    """Return the resolved config without empty values, local paths and what other sections show; versions and seed."""
    record = info.record
    shown = {key: value for key, value in record["config"].items() if value not in (None, [], {})}
    shown = without_local_paths({key: value for key, value in shown.items() if key not in HIDDEN_SETTINGS}, {})
    versions = ", ".join(f"{name} {version}" for name, version in record["environment"]["versions"].items() if version)
    seed = "" if record["seed"] is None else f"; seed {record['seed']}"
    block = fenced(yaml.safe_dump(shown, sort_keys=True, allow_unicode=True).strip(), "yaml")
    made = f"Made with {versions}; on {record['environment']['device']}{seed}."
    return f"<details><summary>All settings</summary>\n\n{block}\n\n</details>\n\n{made}"
