"""The text of a model card, from the record: each section that there is something to say in."""

import json
import math
from pathlib import Path, PurePath

import yaml
from safetensors import safe_open

from hfkit.config.registry import spec_of
from hfkit.hub.cards.artefact import Artefact, dataset_id, hub_id, model_name
from hfkit.hub.cards.figures import figure_of, metric_text, numbers_in
from hfkit.hub.cards.licenses import NO_LICENSE
from hfkit.hub.cards.limits import limits
from hfkit.hub.cards.loading import loading_section
from hfkit.hub.cards.markdown import fenced, markdown_table
from hfkit.hub.homes import without_machine, without_places
from hfkit.records.record import weight_files
from hfkit.records.source import ADAPTER_CONFIG

CARD_SAMPLES = 4
# What the other sections tell, or what says where a file lies on one machine.
NOT_SHOWN = (
    *("datasets", "eval_datasets", "ptx_datasets", "model_name_or_path", "reward_model_path"),
    *("tokenizer_name_or_path", "adapter", "base", "eval_dataset", "license", "seed"),
)


def model_card_body(artefact: Artefact, front: dict) -> str:
    """The generated part of a card.

    Args:
        front: front matter of the card, what was set by hand in it, too.
    """
    sections = {
        "Load it": loading_section,
        "Figures": figures,
        "Samples": samples,
        "Limits": limits,
        "Data": data_section,
        "Where it comes from": lineage_section,
        "Settings": settings,
    }
    parts = [f"# {artefact.name}", *opening(artefact, front)]
    for title, section in sections.items():
        text = section(artefact)
        if text:
            parts.append(f"## {title}\n\n{text}")
    return "\n\n".join(parts)


def opening(artefact: Artefact, front: dict) -> list[str]:
    """What it is, how large, on which base, under which licence."""
    record, base = artefact.record, artefact.base
    stages = [artefact.stage, *(parent["stage"] for parent in record["lineage"][:1] if artefact.stage == "merge")]
    purposes = [spec.purpose for stage in stages if (spec := spec_of(stage))]
    parts = [" ".join(purposes), *map(without_places, record.get("notes", []))]
    if record["status"] != "done":
        parts.append("Its training is not done: these are weights on the way.")
    count = parameters_in(artefact.folder)
    size = f"{count:,} parameters" if count else ""
    on = f"`{model_name(base)}`" if base else ""
    if artefact.is_adapter:
        rank = json.loads((artefact.folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("r")
        told = [f"A LoRA adapter of rank {rank}", f"with {size}" if size else "", f"on the base {on}" if on else ""]
    else:
        told = [size, f"trained from {on}" if on and artefact.stage != "merge" else ""]
    parts += [", ".join(filter(None, told)) + "."] * any(told)
    if "license" not in front:
        parts.append(f"{NO_LICENSE} What it was trained on and started from has licences of its own.")
    return parts


def parameters_in(folder: Path) -> int:
    """How many numbers the weights of a folder are."""
    count = 0
    for file in weight_files(folder):
        with safe_open(file, framework="np") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    return count


def figures(artefact: Artefact) -> str:
    """Each figure with what it means, those of a later evaluation too, and the curves."""
    parts = [metrics_table(artefact.stage, artefact.record["metrics"])]
    if "evaluation" in artefact.record:
        evaluation = artefact.record["evaluation"]
        rows = evaluation["data"].get("test", {}).get("kept")
        on = f" on {rows:,} held-out rows" if rows else ""
        parts += [f"Evaluated{on}, with 95% intervals:", metrics_table("evaluation", evaluation["metrics"])]
    if (artefact.folder / "loss.png").is_file():
        parts.append("![Loss and other figures over the training](loss.png)")
    return "\n\n".join(filter(None, parts))


def metrics_table(stage: str, metrics: dict) -> str:
    """The figures of a stage, or of `evaluation`."""
    rows = [(f"`{key}`", metric_text(metrics, key), figure_of(stage, key).meaning) for key in numbers_in(metrics)]
    return markdown_table(("figure", "value", "what it is"), rows) if rows else ""


def samples(artefact: Artefact) -> str:
    """Replies to held-out prompts before and after the training, where it left some."""
    file = artefact.folder / "samples.jsonl"
    lines = file.read_text(encoding="utf-8").split("\n")[:-1][:CARD_SAMPLES] if file.is_file() else []
    told = []
    for sample in map(json.loads, lines):
        told += [
            f"prompt: {sample['prompt'].strip()}",
            f"before (reward {sample['reward_before']:.2f}): {sample['before'].strip()}",
            f"after (reward {sample['reward_after']:.2f}): {sample['after'].strip()}",
            "",
        ]
    if not told:
        return ""
    return "To the first held-out prompts, not chosen by hand:\n\n" + fenced("\n".join(told[:-1]), "text")


def data_section(artefact: Artefact) -> str:
    """How many rows of each split there were and were kept, where they come from, and in which parts they are mixed."""
    splits = artefact.record["data"]
    rows = [
        (name, f"{split['rows']:,}", f"{split['kept']:,}", f"{split['cut']:,}", f"{split['tokens']:,}")
        for name, split in splits.items()
    ]
    sources = [
        f"- {name}: {source_line(source, is_mixed='mixed' in split)}"
        for name, split in splits.items()
        for source in split["sources"]
    ]
    head = markdown_table(("split", "rows", "kept", "cut", "tokens"), rows)
    return f"{head}\n\n" + "\n".join(sources) if rows else ""


def source_line(source: dict, is_mixed: bool) -> str:
    """A source of rows in a line: a link to the Hub or the name of a file, its data card, its part of a mixture."""
    if "held_out_of" in source:
        return f"held out of {source['held_out_of']}"
    on_hub, taken = dataset_id(source), source.get("taken")
    name = f"[{on_hub}](https://huggingface.co/datasets/{on_hub})" if on_hub else f"`{PurePath(source['path']).name}`"
    parts = [f"{name} at `{source['revision']}`" if source.get("revision") else name]
    parts += [f"data card `{PurePath(source['card']).stem}`"] if source.get("card") else []
    parts += [f"`{source['split']}`"] if source.get("split", "train") != "train" else []
    parts += [f"{source['rows']:,} rows", f"sha256 `{source['sha256'][:12]}`"]
    if is_mixed and taken:
        parts.append(f"{taken['share']:.0%} of a pass over the mixture, {taken['epochs']:g} times each")
    return ", ".join(parts)


def lineage_section(artefact: Artefact) -> str:
    """The models behind it, each once: the base beneath an adapter, its parents, and theirs."""
    record, rows, seen = artefact.record, [], set()

    def add(role: str, model: dict) -> None:
        name, weights = model_name(model), (model.get("weights_sha256") or "")[:12]
        if (name, weights) in seen:
            return
        seen.add((name, weights))
        at = f" at `{model['revision'][:12]}`" if model.get("revision") else ""
        on_hub = f"[{name}](https://huggingface.co/{name}){at}" if hub_id(model) else "local, not pushed"
        rows.append((role, f"`{name}`", on_hub, f"`{weights}`" if weights else ""))

    def add_parents(of: str, parents: list[dict]) -> None:
        for parent in parents:
            role = f"{parent['role']}{of}"
            add(role, parent)
            add_parents(f" of the {parent['stage'] or parent['role']} model", parent["parents"])

    if record.get("base"):
        add("base beneath the adapter" if artefact.is_adapter else "base", record["base"])
    add_parents("", record["lineage"])
    return markdown_table(("part", "model", "on the Hub", "weights, sha256"), rows) if rows else ""


def settings(artefact: Artefact) -> str:
    """The resolved config without what is empty, what is told elsewhere, and where files lie; versions and seed."""
    record = artefact.record
    given = {key: value for key, value in record["config"].items() if value not in (None, [], {})}
    given = without_machine({key: value for key, value in given.items() if key not in NOT_SHOWN}, {})
    versions = ", ".join(f"{name} {version}" for name, version in record["environment"]["versions"].items() if version)
    seed = "" if record["seed"] is None else f"; seed {record['seed']}"
    device = record["environment"]["device"]
    block = fenced(yaml.safe_dump(given, sort_keys=True, allow_unicode=True).strip(), "yaml")
    return (
        f"<details><summary>All of them</summary>\n\n{block}\n\n</details>\n\nMade with {versions}; on {device}{seed}."
    )
