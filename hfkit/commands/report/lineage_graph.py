"""The lineage of runs as a picture: what was made from what."""

from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.patches import FancyBboxPatch

from hfkit.commands.report.figure_writer import LIGHT
from hfkit.commands.report.formatting import format_count
from hfkit.commands.report.gather import STAGE_TITLES, Gathered, ReportedRun
from hfkit.records.record import weights_hash

ROLE_TITLES = {"sft": "policy, reference", "reward": "reward, value", "start": "start"}
WIDTH, HEIGHT, ACROSS, DOWN = 3.0, 0.9, 3.4, 1.6  # of a box, and from one to the next


@dataclass
class Node:
    """A model or tokenizer; `parents` are (key of the node, role that it took)."""

    title: str
    detail: str
    parents: list[tuple[str, str]] = field(default_factory=list)


def lineage_nodes(gathered: Gathered) -> dict[str, Node]:
    """The runs and the models that they were made from, by path or Hub id, parents first."""
    here = {str(stage.folder.resolve()): stage for stage in gathered.stages}
    nodes: dict[str, Node] = {}
    moved: dict[str, str] = {}

    def key_of(path: str, stage: str | None, weights: str | None) -> str:
        """The node of a model; a run that was moved with the folder is known by its weights."""
        if path not in here and path not in moved:
            same = [key for key, run in here.items() if run.kind == stage and weights == weights_hash(key)]
            moved[path] = same[0] if weights and same else path
        return moved.get(path, path)

    def add(entry: dict) -> tuple[str, str]:
        key = key_of(entry["path"], entry.get("stage"), entry.get("weights_sha256"))
        if key in here:
            add_run(key, here[key])
        elif key not in nodes:
            nodes[key] = Node(*describe_parent(entry), [add(parent) for parent in entry.get("parents", [])])
        return key, ROLE_TITLES.get(entry["role"], entry["role"])

    def add_run(key: str, stage: ReportedRun) -> None:
        if key in nodes:
            return
        nodes[key] = node = Node(stage.name, describe_run(stage.record))
        node.parents = [add(entry) for entry in stage.record.get("lineage", [])]
        tokenizer = stage.record.get("config", {}).get("tokenizer_name_or_path")
        node.parents += [
            (path, "tokenizer")
            for path, run in here.items()
            if tokenizer and run.kind == "tokenizer" and Path(tokenizer).name == run.folder.name
        ]

    for key, stage in here.items():
        add_run(key, stage)
    return nodes


def describe_parent(entry: dict) -> tuple[str, str]:
    """Title and detail of a parent that is none of the runs at hand."""
    path = Path(entry["path"])
    name = path.name if path.is_absolute() else entry["path"]
    weights = entry.get("weights_sha256") or ""
    return title_of(entry.get("stage"), name), f"weights {weights[:8]}" if weights else (entry.get("revision") or "")


def describe_run(record: dict) -> str:
    """How much a run learnt from, or that it did not come to its end."""
    split = record.get("data", {}).get("train")
    if record.get("status") != "done":
        return str(record.get("status"))
    return f"{format_count(split['kept'])} rows" if split else ""


def ranks_of(nodes: dict[str, Node]) -> dict[str, int]:
    """How far below the first ones each node stands: the longest way up."""
    ranks: dict[str, int] = {}

    def rank(key: str) -> int:
        if key not in ranks:
            ranks[key] = 0  # a record that names itself is not followed in a circle
            ranks[key] = max((rank(parent) + 1 for parent, _ in nodes[key].parents), default=0)
        return ranks[key]

    return {key: rank(key) for key in nodes}


def draw_lineage(axes, nodes: dict[str, Node]) -> None:
    """Boxes from above to below, with an arrow from each model to what was made from it, named by the role it took."""
    ranks = ranks_of(nodes)
    rows = [[key for key in nodes if ranks[key] == rank] for rank in range(max(ranks.values()) + 1)]
    places = {
        key: ((place - (len(row) - 1) / 2) * ACROSS, -DOWN * rank)
        for rank, row in enumerate(rows)
        for place, key in enumerate(row)
    }
    for key, (x, y) in places.items():
        draw_box(axes, x, y, nodes[key])
        for parent, role in nodes[key].parents:
            draw_arrow(axes, places[parent], (x, y), ranks[key] - ranks[parent] > 1, role)
    side = ACROSS * max(map(len, rows)) / 2
    long = max((ranks[key] - ranks[parent] for key in nodes for parent, _ in nodes[key].parents), default=1)
    axes.set(xlim=(-side, side + 1.6 * max(long - 1, 0.5)), ylim=(-DOWN * (len(rows) - 1) - 0.7, 0.7))
    axes.axis("off")


def draw_box(axes, x: float, y: float, node: Node) -> None:
    """A model: its title, and its detail beneath."""
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    look = {"facecolor": LIGHT["panel"], "edgecolor": LIGHT["first"], "zorder": 0}
    axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.12", **look))
    axes.text(x, y + 0.02, node.title, ha="center", va="bottom", weight="bold")
    axes.text(x, y - 0.06, node.detail, ha="center", va="top", color=LIGHT["muted"], size=8)


def draw_arrow(axes, parent: tuple, child: tuple, is_long: bool, role: str) -> None:
    """From box to box; one that passes others by goes round them on their right."""
    (px, py), (x, y) = parent, child
    if is_long:
        start, end, bend = (px + WIDTH / 2, py), (x + WIDTH / 2, y), 0.3
        middle = (max(start[0], end[0]) + bend * abs(py - y) / 2 + 0.1, (py + y) / 2)
    else:
        start, end, bend = (px, py - HEIGHT / 2), (x, y + HEIGHT / 2), 0
        middle = ((px + x) / 2 + 0.15, (start[1] + end[1]) / 2)
    look = {"arrowstyle": "-|>", "color": LIGHT["muted"], "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops={**look, "connectionstyle": f"arc3,rad=-{bend}"})
    axes.text(*middle, role, ha="left", va="center", color=LIGHT["muted"], size=8)
