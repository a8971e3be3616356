"""hfkit lineage runs/quickstart/ppo

What a run was made from, as its record tells it: stage, weights, seed, data, the base beneath an adapter, and the same
of each model that it started from. The records of parents that are still there are followed; a parent that is gone, or
whose weights are others by now, is marked.
"""

import json
import os
from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from hfkit.records.lineage import lineage_of


def tree_of(node: dict, shown: set):
    """A node as a tree for the terminal; what was shown before is not unfolded again."""
    seen = (node["path"], node["revision"], node["weights_sha256"], node["now"])
    tree = Tree(line_of(node, "as above" if seen in shown else None))
    if seen in shown:
        return tree
    shown.add(seen)
    for name, split in node["data"].items():
        sources = [describe_source(source) for source in split["sources"]]
        kept = f"{name}: {split['kept']:,} of {split['rows']:,} rows kept"
        if len(sources) == 1:
            tree.add(printable_text(kept, sources[0]))
        else:
            branch = tree.add(printable_text(kept))
            for source in sources:
                branch.add(printable_text(source))
    if node["base"]:
        tree.add(line_of({"role": "on the base", "stage": None, "seed": None, **node["base"]}))
    for parent in node["parents"]:
        tree.add(tree_of(parent, shown))
    return tree


def line_of(node: dict, *more: str | None):
    """A model in a line: its part, where it lies, its weights and seed, what became of it."""
    stage, role = node["stage"], node["role"]
    parts = [
        f"{role or stage}: {relative_path(node['path'])}"
        + (f" at {node['revision'][:12]}" if node["revision"] else "")
        + (f" ({stage})" if role and stage not in (None, role) else ""),
        f"weights {node['weights_sha256'][:12]}" if node["weights_sha256"] else None,
        None if node["seed"] is None else f"seed {node['seed']}",
        None if node.get("status") in (None, "done") else f"{node['status']}, not done",
        *more,
    ]
    line = printable_text(*(part for part in parts if part))
    return line.append(f"  {printable(node['now'])}", style="bold red") if node["now"] else line


def describe_source(source: dict) -> str:
    """A data set in a line: where its rows come from, and the hash of them."""
    if "held_out_of" in source:
        return f"held out of {source['held_out_of']}"
    split = f"[{source['split']}]" if source.get("split", "train") != "train" else ""
    return f"{relative_path(source['path'])}{split} {source['sha256'][:12]}"


def printable_text(*parts: str):
    """Parts of a line, safe to print, whoever wrote the record."""
    return Text(", ".join(map(printable, parts)))


def printable(line: str) -> str:
    """A line without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def relative_path(path: str) -> str:
    """A path relative to the current folder where it lies in it."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


def main(given: Namespace) -> int:
    """Run `hfkit lineage`."""
    node = lineage_of(given.path, given.revision)
    if given.json:
        print(json.dumps(node, indent=2, ensure_ascii=False))
        return 0
    console = Console()
    console = console if console.is_terminal else Console(width=1000)  # a line of a file is not broken
    console.print(tree_of(node, set()))
    return 0
