"""The notebooks of examples/ are stored without outputs, and run unchanged, each in a separate process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import python_path

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells_of(notebook: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == kind]


def test_there_are_three_and_none_has_outputs():
    assert [path.stem for path in NOTEBOOKS] == ["four_stages", "ppo_with_your_reward", "sft_on_your_file"]
    for notebook in NOTEBOOKS:
        codes = cells_of(notebook, "code")
        assert codes and not any(cell["outputs"] or cell["execution_count"] for cell in codes)
        for cell in codes:
            compile("".join(cell["source"]), notebook.name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    script = "\n\n".join("".join(cell["source"]) for cell in cells_of(notebook, "code"))
    env = os.environ | {"PYTHONPATH": python_path(ROOT), "HF_HOME": str(tmp_path / "hf"), "TQDM_DISABLE": "1"}
    for name in ("TRANSFORMERS_VERBOSITY", "TRL_EXPERIMENTAL_SILENCE"):  # unset, as for a user
        env.pop(name, None)
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert [line for line in ran.stderr.splitlines() if not line.startswith("warning: ")] == []  # warnings of hfkit
