"""What `hfkit report` says of folders without a pipeline, and parts of it that need none."""

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from hfkit.cli import main
from hfkit.commands.report.data_table import data_table
from hfkit.commands.report.figure_writer import FigureWriter
from hfkit.commands.report.gather import gather
from hfkit.commands.report.lineage_graph import WIDTH, Node, draw_lineage, lineage_size
from hfkit.commands.report.tables import verdict
from hfkit.core.files import write_json


def test_the_interval_of_equal_values_may_exclude_their_mean(tmp_path):
    """By a rounding error."""
    FigureWriter(tmp_path).intervals(
        "gold", "Gold score", "mean", [("base", 0.1 + 0.2, 0.3, 0.3), ("SFT", 0.3, 0.4, 0.4)]
    )
    assert (tmp_path / "gold.png").is_file()


@pytest.mark.parametrize(
    ("record", "reported"),
    [
        (None, "holds no run: neither it nor a folder in it has a readable hfkit.json"),
        ({"stage": "sft", "status": "running"}, r"nothing was logged in .* yet \(run: running\)"),
        ({"stage": "sft", "status": "done", "lineage": [{}]}, "holds no run: neither it nor a folder in it"),
        ({"stage": "sft", "status": "done", "data": {"train": {}}}, "a record in .* is not as hfkit writes it"),
    ],
)
def test_a_folder_without_anything_to_report_says_why(tmp_path, capsys, record, reported):
    if record is not None:
        (tmp_path / "run").mkdir()
        write_json(tmp_path / "run" / "hfkit.json", record)
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert re.search(reported, error) and "Traceback" not in error
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_report_imports_neither_torch_nor_transformers():
    code = "import sys, hfkit.commands.report.main; sys.exit(not {'torch', 'transformers'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_a_wrong_path_is_reported(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    assert "nowhere is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("low", "high", "reported"),
    [(0.6, 0.8, "b beats a"), (0.4, 0.8, "the score does not separate b and a"), (0.1, 0.2, "b is worse than a")],
)
def test_a_verdict_asks_for_intervals_that_are_apart(low, high, reported):
    assert verdict(("a", 0.4, 0.3, 0.5), ("b", (low + high) / 2, low, high), "score").startswith(reported)


def nodes_of_rounds(count: int) -> dict[str, Node]:
    """The lineage of DPO and PPO in rounds, over a model with a long name."""
    start = "some-organization-with-a-long-name/Some-Model-3.5-0.5B-Instruct-of-2026"
    nodes = {"sft": Node("SFT", "24,000 rows", [("start", "start")]), "start": Node(start, "main")}
    policy = nodes["dpo"] = Node("DPO", "8 rows", [("sft", "policy, reference")])
    policy_key = "dpo"
    for number in range(1, count + 1):
        reward, ppo = f"reward-{number}", f"ppo-{number}"
        nodes[reward] = Node(f"Reward model (round {number})", "4 rows", [("sft", "start")])
        nodes[ppo] = policy = Node(f"PPO (round {number})", "8 rows", [(policy_key, "policy, reference")])
        policy.parents.append((reward, "reward, value"))
        policy_key = ppo
    return nodes


@pytest.mark.parametrize("count", [0, 1, 2, 3, 12])
def test_the_lineage_of_rounds_can_be_read(count):
    """Each text is in one box, no two boxes or texts overlap, and the lines that pass boxes are next to them."""
    nodes = nodes_of_rounds(count)
    size = lineage_size(nodes)
    assert size[0] < 4.1  # inches, as wide as a phone
    figure = Figure(size)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_lineage(axes, nodes)
    figure.canvas.draw()
    boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    texts = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == len(nodes) and len(texts) > 2 * len(nodes)
    for group in (boxes, texts):
        assert not [(one, other) for one, other in combinations(group, 2) if one.overlaps(other)]
    for text in texts:
        assert any(box.x0 < text.x0 and text.x1 < box.x1 and box.y0 < text.y0 and text.y1 < box.y1 for box in boxes)
    for line in axes.lines:
        (_, _), *turns = line.get_xydata()
        assert all(x > WIDTH for x, _ in turns) and max(x for x, _ in turns) < size[0]


def test_a_lineage_that_names_itself_is_drawn():
    nodes = {"a": Node("A", "", [("b", "start")]), "b": Node("B", "", [("a", "start")])}
    axes = Figure(lineage_size(nodes)).subplots()
    draw_lineage(axes, nodes)
    assert {text.get_text() for text in axes.texts} >= {"A", "B"}


def source(folder: str, digest: str, **taken) -> dict:
    return {"path": f"/runs/{folder}/labels/rankings.jsonl", "split": "train", "rows": 6, "sha256": digest, **taken}


def test_a_file_that_several_stages_read_is_one_row_of_the_data(tmp_path):
    """The folders of files with the same name are shown."""
    first, second = source("round_1", "a" * 64), source("round_2", "b" * 64)
    half = {"taken": {"rows": 6, "tokens": 60, "share": 0.5}}
    sources = {"round_1": [first], "round_2": [first | half, second | half], "dpo": [first]}
    for name, own in sources.items():
        run = tmp_path / name / "reward" if name.startswith("round") else tmp_path / name
        run.mkdir(parents=True)
        split = {"name": "train", "sources": own, "rows": 6 * len(own), "kept": 6 * len(own), "cut": 0, "tokens": 60}
        stage = "reward" if name.startswith("round") else "dpo"
        write_json(run / "hfkit.json", {"stage": stage, "status": "done", "data": {"train": split}})
    table = data_table(gather(tmp_path))
    found = {row[2]: (row[0], row[3], row[5]) for row in table.rows}
    assert found == {
        "round_1/labels/rankings.jsonl": (
            "DPO, Reward model (round 1), Reward model (round 2)",
            "6",
            "100% / 100% / 50%",
        ),
        "round_2/labels/rankings.jsonl": ("Reward model (round 2)", "6", "50%"),
        "all sources": ("Reward model (round 2)", "12", "100%"),
    }
