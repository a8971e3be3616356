"""The lineage of runs as a graph: which model was made from which."""

from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.patches import FancyBboxPatch

from hfkit.commands.report.figure_writer import LIGHT
from hfkit.commands.report.formatting import format_count
from hfkit.commands.report.gather import Gathered, title_of
from hfkit.config.registry import StageSpec, spec_of
from hfkit.records.lineage import lineage_edges
from hfkit.records.record import weights_hash

NODE_WIDTH, HEIGHT, ACROSS, DOWN = 3.0, 0.9, 3.4, 1.6  # of a box, and from a box to the next


@dataclass
class Node:
    """A model or tokenizer; `parents` are (key of the parent's node, the parent's role)."""

    title: str
    detail: str
    parents: list[tuple[str, str]] = field(default_factory=list)


def lineage_nodes(gathered: Gathered) -> dict[str, Node]:
    """Return runs and the models that they were made from, by path or Hub id, parents first."""
    here = {str(run.folder.resolve()): run for run in gathered.runs}
    nodes: dict[str, Node] = {}
    moved: dict[str, str] = {}

    def key_of(entry: dict) -> str:
        """Return the node of a model; a run that moved with its pipeline is found by its weights."""
        path, stage, weights = entry["path"], entry.get("stage"), entry.get("weights_sha256")
        if path not in here and path not in moved:
            same = [key for key, run in here.items() if run.stage == stage and weights == weights_hash(key)]
            moved[path] = same[0] if weights and same else path
        return moved.get(path, path)

    for run_key, run in here.items():
        nodes[run_key] = node = Node(run.name, describe_run(run.record))
        for entry, child in lineage_edges(run.record.get("lineage", [])):
            key, child_key = key_of(entry), key_of(child) if child else run_key
            if (child and child_key in here) or child_key not in nodes:
                continue  # the child's own record names its parents
            if key not in here:
                nodes.setdefault(key, Node(*describe_parent(entry)))
            spec = spec_of(child.get("stage") if child else run.stage)
            parent = (key, roles_of_parent(spec).get(entry["role"], entry["role"]))
            if parent not in nodes[child_key].parents:
                nodes[child_key].parents.append(parent)
        name = Path(run.record.get("config", {}).get("tokenizer_name_or_path") or "").name
        tokenizers = [path for path, other in here.items() if getattr(other.spec, "makes", None) == "tokenizer"]
        node.parents += [(path, "tokenizer") for path in tokenizers if here[path].folder.name == name]
    return nodes


def roles_of_parent(spec: StageSpec | None) -> dict[str, str]:
    """Return the roles that parents have in a stage, by their role in the lineage."""
    start = {"start": "policy, reference"} if spec and spec.holds_reference else {}
    return start | ({"reward": "reward, value"} if spec and spec.loop == "ppo" else {})


def describe_parent(entry: dict) -> tuple[str, str]:
    """Return title and detail of a parent that is not among the runs."""
    path = Path(entry["path"])
    name = path.name if path.is_absolute() else entry["path"]
    title = title_of(entry["stage"]) if spec_of(entry.get("stage")) else name
    weights = entry.get("weights_sha256") or ""
    return title, f"weights {weights[:8]}" if weights else entry.get("revision") or ""


def describe_run(record: dict) -> str:
    """Return the number of rows that a run was trained on, or its status if it is not done."""
    split = record.get("data", {}).get("train")
    if record.get("status") != "done":
        return str(record.get("status"))
    return f"{format_count(split['kept'])} rows" if split else ""


def ranks_of(nodes: dict[str, Node]) -> dict[str, int]:
    """Return the row of each node: the length of its longest path to a node without parents."""
    ranks: dict[str, int] = {}

    def rank(key: str) -> int:
        if key not in ranks:
            ranks[key] = 0  # ends the recursion if a record names itself as an ancestor
            ranks[key] = max((rank(parent) + 1 for parent, _ in nodes[key].parents), default=0)
        return ranks[key]

    return {key: rank(key) for key in nodes}


def draw_lineage(axes, nodes: dict[str, Node]) -> None:
    """Draw boxes from top to bottom, with an arrow, labeled with the role, from each parent to its child."""
    ranks = ranks_of(nodes)
    rows = [[key for key in nodes if ranks[key] == rank] for rank in range(max(ranks.values()) + 1)]
    centers = {
        key: ((column - (len(row) - 1) / 2) * ACROSS, -DOWN * rank)
        for rank, row in enumerate(rows)
        for column, key in enumerate(row)
    }
    for key, (x, y) in centers.items():
        draw_box(axes, x, y, nodes[key])
        for parent, role in nodes[key].parents:
            draw_arrow(axes, centers[parent], (x, y), ranks[key] - ranks[parent] > 1, role)
    side = ACROSS * max(map(len, rows)) / 2
    long = max((ranks[key] - ranks[parent] for key in nodes for parent, _ in nodes[key].parents), default=1)
    axes.set(xlim=(-side, side + 1.6 * max(long - 1, 0.5)), ylim=(-DOWN * (len(rows) - 1) - 0.7, 0.7))
    axes.axis("off")


def draw_box(axes, x: float, y: float, node: Node) -> None:
    """Draw a model's box, with its title and its detail."""
    corner = (x - NODE_WIDTH / 2, y - HEIGHT / 2)
    look = {"facecolor": LIGHT["panel"], "edgecolor": LIGHT["first"], "zorder": 0}
    axes.add_patch(FancyBboxPatch(corner, NODE_WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.12", **look))
    axes.text(x, y + 0.02, node.title, ha="center", va="bottom", weight="bold")
    axes.text(x, y - 0.06, node.detail, ha="center", va="top", color=LIGHT["muted"], size=8)


def draw_arrow(axes, parent: tuple, child: tuple, is_long: bool, role: str) -> None:
    """Draw an arrow from box to box; a long one bends to the right, around the boxes between them."""
    (px, py), (x, y) = parent, child
    if is_long:
        start, end, bend = (px + NODE_WIDTH / 2, py), (x + NODE_WIDTH / 2, y), 0.3
        middle = (max(start[0], end[0]) + bend * abs(py - y) / 2 + 0.1, (py + y) / 2)
    else:
        start, end, bend = (px, py - HEIGHT / 2), (x, y + HEIGHT / 2), 0
        middle = ((px + x) / 2 + 0.15, (start[1] + end[1]) / 2)
    look = {"arrowstyle": "-|>", "color": LIGHT["muted"], "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops={**look, "connectionstyle": f"arc3,rad=-{bend}"})
    axes.text(*middle, role, ha="left", va="center", color=LIGHT["muted"], size=8)
