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

WIDTH, INSET, GAP, LANE = 2.95, 0.09, 0.3, 0.17  # inches: of a box, in it, below it; between two lines next to it
TITLE_HEIGHT, LINE_HEIGHT = 0.2, 0.155
TITLE_LENGTH, LINE_LENGTH = 28, 42  # characters that fit into a box


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


def in_order(nodes: dict[str, Node]) -> list[str]:
    """Return the keys of the nodes so that parents are first, and near their children."""
    order: dict[str, None] = {}
    open_keys: set[str] = set()  # ends the recursion if a record names itself as an ancestor

    def add(key: str) -> None:
        if key in order or key in open_keys:
            return
        open_keys.add(key)
        for parent, _ in nodes[key].parents:
            add(parent)
        order[key] = None

    parents = {parent for node in nodes.values() for parent, _ in node.parents}
    for key in sorted(nodes, key=lambda key: key in parents):  # models from which none was made, each with its parents
        add(key)
    return [*order]


def lines_of(node: Node, nodes: dict[str, Node]) -> list[str]:
    """Return what a box has below its title: the detail, and the role and title of each parent."""
    parents = [f"{role}: {nodes[parent].title}" for parent, role in node.parents]
    return [without_middle(line, LINE_LENGTH) for line in [node.detail, *parents] if line]


def without_middle(text: str, length: int) -> str:
    """Return a text without its middle if it is longer than a length; paths differ at their ends."""
    half = length // 2
    return text if len(text) <= length else f"{text[: half - 1]}…{text[-half:]}"


def heights_of(nodes: dict[str, Node]) -> dict[str, float]:
    """Return the height of each box in inches."""
    return {key: 2 * INSET + TITLE_HEIGHT + LINE_HEIGHT * len(lines_of(node, nodes)) for key, node in nodes.items()}


def lanes_of(nodes: dict[str, Node]) -> dict[str, int]:
    """Return the lane, next to the boxes, of each parent whose children are not all directly below it.

    A lane has a line from a parent to its last child. Lines whose boxes overlap have different lanes.
    """
    rows = {key: row for row, key in enumerate(in_order(nodes))}
    spans: dict[str, tuple[int, int]] = {}
    for key, node in nodes.items():
        for parent, _ in node.parents:
            if rows[key] - rows[parent] > 1:
                spans[parent] = (rows[parent], max(rows[key], spans.get(parent, (0, 0))[1]))
    lanes: dict[str, int] = {}
    for key in sorted(spans, key=lambda key: spans[key][1] - spans[key][0]):  # short lines next to the boxes
        start, end = spans[key]
        taken = {lanes[other] for other in lanes if spans[other][0] < end and start < spans[other][1]}
        lanes[key] = next(lane for lane in range(len(spans)) if lane not in taken)
    return lanes


def lineage_size(nodes: dict[str, Node]) -> tuple[float, float]:
    """Return width and height of the graph in inches."""
    lanes = max(lanes_of(nodes).values(), default=-1) + 1
    return WIDTH + LANE * (lanes + 1), sum(heights_of(nodes).values()) + GAP * (len(nodes) - 1)


def draw_lineage(axes, nodes: dict[str, Node]) -> None:
    """Draw a box below the other, parents first, with an arrow from each parent: down, or along a lane at the right."""
    order, heights, lanes = in_order(nodes), heights_of(nodes), lanes_of(nodes)
    width, total = lineage_size(nodes)
    tops, top = {}, total
    for key in order:
        tops[key] = top
        top -= heights[key] + GAP
        draw_box(axes, tops[key], heights[key], nodes[key].title, lines_of(nodes[key], nodes))
    for row, key in enumerate(order):
        for parent, _ in nodes[key].parents:
            if order[row - 1] == parent:
                draw_arrow(axes, [(0.4, tops[parent] - heights[parent]), (0.4, tops[key])])
            elif parent in lanes:
                x, start = WIDTH + LANE * (lanes[parent] + 1), tops[parent] - heights[parent] + 0.12
                end = tops[key] - min(0.12 * (lanes[parent] + 1), heights[key] - 0.2)  # one below the other
                draw_arrow(axes, [(WIDTH, start), (x, start), (x, end), (WIDTH, end)])
    axes.set(xlim=(-0.02, width), ylim=(-0.02, total + 0.02))
    axes.axis("off")


def draw_box(axes, top: float, height: float, title: str, lines: list[str]) -> None:
    """Draw a model's box, with its title and what is below it."""
    look = {"facecolor": LIGHT["panel"], "edgecolor": LIGHT["first"], "zorder": 0}
    box = FancyBboxPatch((0, top - height), WIDTH, height, boxstyle="round,pad=0,rounding_size=0.05", **look)
    axes.add_patch(box)
    y = top - INSET
    axes.text(0.12, y, without_middle(title, TITLE_LENGTH), va="top", weight="bold")
    for index, line in enumerate(lines):
        below = y - TITLE_HEIGHT - LINE_HEIGHT * index
        axes.text(0.12, below, line, va="top", color=LIGHT["muted"], size=8)


def draw_arrow(axes, points: list[tuple[float, float]]) -> None:
    """Draw a line through points, with the head of an arrow at its end."""
    look = {"color": LIGHT["muted"], "shrinkA": 0, "shrinkB": 0}
    if points[:-2]:
        axes.plot(*zip(*points[:-1], strict=True), color=LIGHT["muted"], linewidth=1)
    axes.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": "-|>", **look})
