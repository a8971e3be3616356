"""hfkit lineage runs/quickstart/ppo

Prints what a run was made from, according to its record: stage, weights, seed, data, the base of an adapter, and the
same for each model that it started from. Records of parents are read if they exist; a parent that is missing or whose
weights have changed is marked.
"""

import json
import os
from argparse import Namespace
from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from hfkit.core.console import printable_line
from hfkit.core.errors import HfkitError, reason
from hfkit.core.tables import make_console
from hfkit.records.given_rows import GIVEN, is_given
from hfkit.records.lineage import lineage_of


def tree_of(node: dict, shown: set) -> Tree:
    """Return a node with its data, base and parents as a tree; nodes in `shown` are not unfolded again."""
    key = (node["path"], node["revision"], node["weights_sha256"], node["now"])
    tree = Tree(model_line(node, "as above" if key in shown else None))
    if key in shown:
        return tree
    shown.add(key)
    for name, split in node["data"].items():
        sources = [describe_source(source) for source in split["sources"]]
        kept = f"{name}: {split['kept']:,} of {split['rows']:,} rows kept"
        branch = tree.add(line_of(kept, *(sources if len(sources) == 1 else [])))
        for source in sources if len(sources) > 1 else []:
            branch.add(line_of(source))
    if node["base"]:
        tree.add(model_line({"role": "on the base", "stage": None, "seed": None, **node["base"]}))
    for parent in node["parents"]:
        tree.add(tree_of(parent, shown))
    return tree


def model_line(node: dict, *more: str | None) -> Text:
    """Return a line about a model: its role, path, weights and seed, and later changes."""
    stage, role = node["stage"], node["role"]
    parts = [
        f"{role or stage}: {relative_path(node['path'])}"
        + (f" at {node['revision'][:12]}" if node["revision"] else "")
        + (f" ({stage})" if role and stage not in (None, role) else ""),
        f"weights {node['weights_sha256'][:12]}" if node["weights_sha256"] else None,
        f"step {node['step']}" if node.get("step") is not None else None,
        None if node["seed"] is None else f"seed {node['seed']}",
        None if node.get("status") in (None, "done") else f"{node['status']}, not done",
        f"stopped early: {node['stopped']}" if node.get("stopped") else None,
        *more,
    ]
    line = line_of(*(part for part in parts if part))
    return line.append_text(line_of(f"  {node['now']}", style="bold red")) if node["now"] else line


def describe_source(source: dict) -> str:
    """Return where a dataset's rows come from, with the start of their hash."""
    if "held_out_of" in source:
        return f"held out from {source['held_out_of']}"
    split = f"[{source['split']}]" if source.get("split", "train") != "train" else ""
    name = GIVEN if is_given(source["path"]) else relative_path(source["path"])
    return f"{name}{split} {source['sha256'][:12]}"


def line_of(*parts: str, style: str = "") -> Text:
    """Return parts of a record as one line, without terminal control characters."""
    return Text(printable_line(", ".join(parts)), style)


def relative_path(path: str) -> str:
    """Return a path relative to the current folder if it is inside of it."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


def main(given: Namespace) -> int:
    """Run `hfkit lineage`."""
    node = lineage_of(given.path, given.revision)
    if given.json:
        print(json.dumps(node, indent=2, ensure_ascii=False))
        return 0
    try:
        tree = tree_of(node, set())
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise HfkitError(
            f"a record in the lineage of {given.path} is not as hfkit writes it: {reason(error)}"
        ) from error
    make_console(width=1000).print(tree)  # lines in a file are not wrapped
    return 0
