"""hfkit lineage runs/quickstart/ppo

What a run was made from, as its record tells it: stage, weights, seed, data, the base beneath an adapter, and the same
of each model that it started from. The records of parents that are still there are followed; a parent that is gone, or
whose weights are others by now, is marked.
"""

import json
import os
from pathlib import Path

from hfkit.cli import verb_parser
from hfkit.errors import HfkitError

GONE = "not there any more"
NOT_PUSHED = "was not on the Hub when this was pushed"


def lineage_of(path: str, revision: str = "main") -> dict:
    """The tree of a run, folder or Hub id, as nested dicts.

    Returns:
        path, revision, stage, status, weights_sha256, seed, `data` (a dict per split: rows, kept, sources with their
        sha256), `base` (of an adapter), `role` (which part a parent took, else None), `now` (what has become of a
        parent or base since, or None) and `parents` (such dicts).

    Raises:
        HfkitError: there is no record, or it is not as hfkit writes it.
    """
    from hfkit.record import RECORD, model_identity
    from hfkit.source import read_json

    record = read_json(path, RECORD, revision)
    if record is None:
        raise HfkitError(f"{path} has no record: there is no {RECORD} of a run in it")
    try:
        return node_of({"role": None, **model_identity(path, revision), "now": None}, record, above=())
    except (LookupError, TypeError, AttributeError) as error:
        raise HfkitError(f"the {RECORD} of {path} is not as hfkit writes it: {type(error).__name__}") from error


def node_of(model: dict, record: dict, above: tuple[tuple, ...]) -> dict:
    """A model with what a record says of it.

    Args:
        above: path and revision of its descendants; a record that names one of them is not followed in a circle.
    """
    above = (*above, (model["path"], model["revision"]))
    return {
        **model,
        "stage": record.get("stage"),
        "status": record.get("status"),
        "seed": record.get("seed"),
        "data": {
            name: {key: split[key] for key in ("rows", "kept", "sources")}
            for name, split in record.get("data", {}).items()
        },
        "base": {**record["base"], "now": what_became_of(record["base"])} if record.get("base") else None,
        "parents": [parent_node(parent, above) for parent in record.get("lineage", [])],
    }


def parent_node(entry: dict, above: tuple[tuple, ...]) -> dict:
    """A parent from its line in a record, and from its own record where it is still what it was."""
    from hfkit.hub.retry import Unreachable
    from hfkit.record import record_of

    now, record = what_became_of(entry), None
    if now is None and (entry["path"], entry["revision"]) not in above:
        try:
            record = record_of(entry["path"], entry["revision"] or "main")
        except Unreachable:
            pass  # what its descendant knows of it has to do
        except HfkitError:
            now = f"{GONE}, or not for you to see"
    model = {key: entry[key] for key in ("role", "path", "revision", "weights_sha256")}
    told = {"stage": entry["stage"], "lineage": entry["parents"]}
    return node_of({**model, "now": now}, record or told, above)


def what_became_of(model: dict) -> str | None:
    """What has become of a local model since it was recorded: gone, or with other weights; None if neither.

    Without the folders above it, a path is that of a model that was on somebody's machine alone.
    """
    from hfkit.record import weights_hash

    if model["revision"] is not None:  # a commit of the Hub's stays as it is
        return None
    if not Path(model["path"]).is_absolute():
        return NOT_PUSHED
    if not os.path.isdir(model["path"]):
        return GONE
    was, now = model["weights_sha256"], weights_hash(model["path"])
    if was in (None, now):
        return None
    if now is None:
        return f"its weights are {GONE}"
    return f"its weights have changed since: was {was[:12]}, is {now[:12]}"


def tree_of(node: dict, shown: set):
    """A node as a tree for the terminal; what was shown before is not unfolded again."""
    from rich.tree import Tree

    seen = (node["path"], node["revision"], node["weights_sha256"], node["now"])
    tree = Tree(line_of(node, "as above" if seen in shown else None))
    if seen in shown:
        return tree
    shown.add(seen)
    for name, split in node["data"].items():
        sources = [source_line(source) for source in split["sources"]]
        kept = f"{name}: {split['kept']:,} of {split['rows']:,} rows kept"
        if len(sources) == 1:
            tree.add(text(kept, sources[0]))
        else:
            branch = tree.add(text(kept))
            for source in sources:
                branch.add(text(source))
    if node["base"]:
        tree.add(line_of({"role": "on the base", "stage": None, "seed": None, **node["base"]}))
    for parent in node["parents"]:
        tree.add(tree_of(parent, shown))
    return tree


def line_of(node: dict, *more: str | None):
    """A model in a line: its part, where it lies, its weights and seed, what became of it."""
    stage, role = node["stage"], node["role"]
    parts = [
        f"{role or stage}: {short(node['path'])}"
        + (f" at {node['revision'][:12]}" if node["revision"] else "")
        + (f" ({stage})" if role and stage not in (None, role) else ""),
        f"weights {node['weights_sha256'][:12]}" if node["weights_sha256"] else None,
        None if node["seed"] is None else f"seed {node['seed']}",
        None if node.get("status") in (None, "done") else f"{node['status']}, not done",
        *more,
    ]
    line = text(*(part for part in parts if part))
    return line.append(f"  {printable(node['now'])}", style="bold red") if node["now"] else line


def source_line(source: dict) -> str:
    """A data set in a line: where its rows come from, and the hash of them."""
    if "held_out_of" in source:
        return f"held out of {source['held_out_of']}"
    split = f"[{source['split']}]" if source.get("split", "train") != "train" else ""
    return f"{short(source['path'])}{split} {source['sha256'][:12]}"


def text(*parts: str):
    """Parts of a line, safe to print, whoever wrote the record."""
    from rich.text import Text

    return Text(", ".join(map(printable, parts)))


def printable(line: str) -> str:
    """A line without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def short(path: str) -> str:
    """A path relative to the current folder where it lies in it."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


def cli(argv: list[str] | None = None) -> int:
    """`hfkit lineage`"""
    parser = verb_parser("lineage", __doc__)
    parser.add_argument("path", help="folder or Hub id of a run")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of a run on the Hub")
    parser.add_argument("--json", action="store_true", help="the same as JSON, with whole hashes")
    given = parser.parse_args(argv)
    node = lineage_of(given.path, given.revision)
    if given.json:
        print(json.dumps(node, indent=2, ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=1000)  # a line of a file is not broken
    console.print(tree_of(node, set()))
    return 0
