"""What the command line does before it imports PyTorch: help, and errors about missing inputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError
from quick import slow

from hfkit import cli
from hfkit.core.compat import http_library

ROOT = Path(__file__).parent.parent


def test_hfkit_help_imports_no_heavy_library():
    """httpx, the HTTP library of earlier versions of huggingface_hub, imports rich."""
    heavy = {"torch", "trl", "transformers", "datasets", "peft", "numpy", "rich"}
    heavy -= {"rich"} if http_library(HfHubHTTPError).__name__ == "httpx" else set()
    code = f"import sys, hfkit.cli as c; c.main(['-h']); sys.exit(not {heavy}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_help_of_every_verb_imports_no_heavy_library():
    """Nor the Hub's client, which takes as long as everything else."""
    verbs = [[verb] for verb in cli.all_verbs() if verb != "data"] + [["data", verb] for verb in cli.DATA_VERBS]
    code = f"""
import contextlib, io, sys
import hfkit.cli as c
for words in {verbs}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        c.main([*words, "-h"])
    assert f"hfkit {{words[0]}}" in out.getvalue(), words
    print(words, {{"torch", "numpy", "datasets", "transformers", "rich", "huggingface_hub"}} & {{*sys.modules}})
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.splitlines() == [f"{words} set()" for words in verbs], ran.stderr


MISSING_INPUTS = [
    (["chat", "./missing"], "./missing: no such folder, and not a Hub id"),
    (["chat", ".", "--against", "./missing"], "./missing: no such folder"),
    (["merge", "./missing", "out"], "./missing: no such folder"),
    (["export", "user/missing", "out", "--format", "gguf"], "cannot load user/missing: neither a folder nor"),
    (["plan", "missing.yaml"], "'missing.yaml' -> no such file"),
    (["plan", "list.yaml"], "expected a mapping"),
    (["run", "missing.yaml"], "'missing.yaml' -> no such file"),
    (["data", "check", "missing.yaml"], "'missing.yaml' -> no such file"),
    (["chat", ".", "--adapter", "./missing"], "./missing: no such folder"),
    (["chat", ".", "--chat_template", "no.jinja"], "--chat_template: 'no.jinja' -> no such file"),
    (["export", ".", "out", "--format", "vllm", "--base", "./missing"], "./missing: no such folder"),
    (["serve", ".", "other=./missing"], "./missing: no such folder"),
    (["serve", "user/missing"], "cannot load user/missing: neither a folder nor"),
    (["evaluate", "./missing"], "model_name_or_path: './missing' -> no such folder"),
    (["evaluate", ".", "--against", "user/missing"], "against[0]: 'user/missing' -> cannot load user/missing"),
    (["evaluate", ".", "--datasets", "no.jsonl"], "datasets[0].path: 'no.jsonl' -> no such file"),
    (["sample", ".", "--prompts", "no/where.jsonl"], "prompts[0].path: 'no/where.jsonl' -> no such file"),
    (["sample", "$MODELS/x", "--prompts", "list.yaml"], "environment variables are not read in a config"),
    (["arena", ".", "./missing", "--judge", "human", "--prompts", "n.csv"], "models[1]: './missing' -> no such"),
    (["bench", "./missing", "--tasks", "arc_easy"], "models[0]: './missing' -> no such folder"),
    (["label", "no.jsonl"], "datasets[0].path: 'no.jsonl' -> no such file"),
    (["label", "no.csv", "--judge", "./missing"], "judge: './missing' -> no such folder"),
    (["curve", "missing.yaml", "--sizes", "1", "2"], "'missing.yaml' -> no such file"),
]
"""Command lines with a missing input, each with a part of its error."""


def test_missing_inputs_are_reported_before_heavy_libraries_load(tmp_path):
    (tmp_path / "list.yaml").write_text("- a")
    code = f"""
import contextlib, io, json, sys
import hfkit.cli as c
for argv in {[argv for argv, _ in MISSING_INPUTS]}:
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        status = c.main(argv)
    heavy = {{"torch", "trl", "transformers", "datasets", "peft", "accelerate"}} & {{*sys.modules}}
    print(json.dumps([status, sorted(heavy), printed.getvalue()]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert len(ran.stdout.splitlines()) == len(MISSING_INPUTS), ran.stderr
    for (argv, reported), line in zip(MISSING_INPUTS, ran.stdout.splitlines(), strict=True):
        status, heavy, printed = json.loads(line)
        assert status in (1, 2) and heavy == [] and reported in printed, (argv, line)


@pytest.mark.parametrize(
    ("argv", "announced"),
    [
        (["sft", "--learning_rat", "1"], True),
        slow(["sft", "-h"], False),
        slow(["evaluate", "."], True),
        (["evaluate", "./missing"], False),
        slow(["chat", "."], True),
        slow(["lineage", "."], False),
    ],
)
def test_a_verb_that_loads_pytorch_prints_a_line_first(argv, announced, tmp_path):
    """The first import of torch ends the process, so nothing can be printed after it."""
    (tmp_path / "torch.py").write_text("import os\nos._exit(7)")
    code = f"import sys, hfkit.cli as c; sys.exit(c.main({argv}))"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ran.stderr == f"hfkit {argv[0]}: loading PyTorch and Transformers\n") == announced, ran.stderr
    assert (ran.returncode == 7) == announced


@pytest.mark.slow  # it imports without the forks' server
def test_training_libraries_stay_out_of_verbs_that_do_not_train():
    code = "import sys, hfkit.evaluation.evaluate; sys.exit('trl.trainer.sft_trainer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0
