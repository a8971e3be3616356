"""What `hfkit report` says of folders without a pipeline, and parts of it that need none."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hfkit.cli import main
from hfkit.commands.report.figure_writer import FigureWriter
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
