"""The command line: its exit statuses and its output."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import python_path
from quick import slow

from hfkit import __version__, cli
from hfkit.config.registry import MERGE, STAGES
from hfkit.core.errors import ConfigError, HfkitError

ROOT = Path(__file__).parent.parent
FAKE_STAGE = """'''hfkit fake --config c.yaml

Does something.'''
import os
import sys
from dataclasses import dataclass, field
from hfkit.config.registry import MERGE, STAGES
from hfkit.core.errors import HfkitError

@dataclass
class Config:
    model: str = field(metadata={"help": "the model, 100% of it"})
    how: str = "well"
    packing: bool = True

def problems_of(config):
    return []

def main(config):
    if config.how == "interrupted":
        raise KeyboardInterrupt
    if config.how == "badly":
        raise HfkitError("the disk is full")
    if config.how == "wrongly":
        raise ZeroDivisionError
    if config.how == "roomily":
        print({name: value for name, value in os.environ.items() if name.endswith("ALLOC_CONF")})
        assert "torch" not in sys.modules
    print("torch" in sys.modules)
"""
LAUNCH = """
import sys
from types import ModuleType
import fake_stage
from hfkit import cli
from hfkit.config.registry import StageSpec, register
checks = sys.modules["hfkit.stages.checks.stage"] = ModuleType("checks")  # the real ones import torch
checks.problems_of = fake_stage.problems_of
register(
    StageSpec(
        name="fake", config_class=fake_stage.Config, module="fake_stage", help="fake", title="", purpose="", makes=None
    )
)
sys.exit(cli.main())
"""


FIRST_LINE = "hfkit fake: loading PyTorch and Transformers\n"


@pytest.fixture
def hfkit(tmp_path):
    """Run the `hfkit` command, with a registered stage `fake`, as a separate process."""
    (tmp_path / "fake_stage.py").write_text(FAKE_STAGE)

    def run(*args, **env):
        env = os.environ | {"PYTHONPATH": python_path(ROOT, tmp_path), "COLUMNS": "100"} | env
        return subprocess.run([sys.executable, "-c", LAUNCH, *args], env=env, capture_output=True, text=True)

    return run


@pytest.mark.parametrize(
    ("how", "status", "line"),
    [
        ("interrupted", 130, "hfkit fake: interrupted\n"),
        ("badly", 1, "hfkit fake: the disk is full\n"),
        ("5", 0, ""),
    ],
)
def test_exit_status(hfkit, how, status, line):
    ran = hfkit("fake", "--model", "m", "--how", how)
    assert (ran.returncode, ran.stderr) == (status, FIRST_LINE + line)


def test_config_errors_exit_with_2_and_no_traceback(hfkit):
    ran = hfkit("fake", "--packng")
    assert ran.returncode == 2
    assert ran.stderr.removeprefix(FIRST_LINE).splitlines() == [
        "hfkit fake: 2 problems in the configuration:",
        "  --packng: '' -> unknown; did you mean --packing?",
        "  model: missing -> required; set it in the YAML or pass --model",
    ]


def test_tracebacks_are_for_bugs_and_for_debugging(hfkit):
    assert "ZeroDivisionError" in hfkit("fake", "--model", "m", "--how", "wrongly").stderr
    ran = hfkit("fake", "--model", "m", "--how", "badly", HFKIT_DEBUG="1")
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr


@pytest.mark.parametrize(
    ("own", "printed"),
    [
        ({}, "ALLOC_CONF': 'expandable_segments:True'}"),
        ({"MALLOC_CONF": "narenas:2"}, "ALLOC_CONF': 'expandable_segments:True'}"),  # a setting of another allocator
        slow({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, "{'PYTORCH_CUDA_ALLOC_CONF': 'backend:native'}"),
    ],
)
def test_segments_of_gpu_memory_grow_unless_the_environment_configures_them(hfkit, monkeypatch, own, printed):
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)  # set by a verb in this process
    assert hfkit("fake", "--model", "m", "--how", "roomily", **own).stdout.splitlines()[0].endswith(printed)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_there_are_arguments_prints_no_traceback(monkeypatch, capsys, number, status):
    monkeypatch.setattr("hfkit.core.console.quiet_libraries", lambda: signal.raise_signal(number))
    assert cli.main(["sft", "nowhere.yaml"]) == status
    assert f"hfkit sft: interrupted by {number.name}" in capsys.readouterr().err


def test_help_of_a_stage_is_light_and_opens_with_its_launch_command(hfkit, tmp_path):
    ran = hfkit("fake", "--help")
    assert ran.returncode == 0
    assert ran.stdout.startswith("hfkit fake --config c.yaml\n\nDoes something.\n")
    assert "the model, 100% of it (required)" in ran.stdout
    assert "--packing true/false" in ran.stdout
    assert "(default: True)" in ran.stdout
    code = "import hfkit.cli as c, sys\ntry: c.main(['sft', '-h'])\nfinally: print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.startswith("hfkit sft configs") and ran.stdout.endswith("\nFalse\n")


def test_help_version_and_unknown_verbs(capsys):
    assert cli.main(["--help"]) == 0
    table = capsys.readouterr().out
    assert all(f"\n  {verb} " in table for verb in cli.all_verbs())
    assert "***" not in table  # a usage line contains nothing that is masked as a secret
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"hfkit {__version__}\n"
    assert cli.main(["pretrian"]) == 2
    assert "did you mean `hfkit pretrain`?" in capsys.readouterr().err
    assert cli.main(["zzz"]) == 2
    assert "the verbs are: tokenizer, pretrain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "lines"),
    [
        (
            ["export", "model"],
            [
                "required: out, --format",
                "  --format: gguf, ollama or vllm",
                "  example: hfkit export runs/ppo exported",
            ],
        ),
        (["merge"], ["required: adapter, out", "  example: hfkit merge runs/"]),
        (["chat", "model", "--lenght", "3"], ["did you mean --length?", "  example: hfkit chat "]),
    ],
)
def test_an_error_of_a_command_line_shows_required_flags_and_an_example(argv, lines, capsys):
    with pytest.raises(SystemExit):
        cli.main(argv)
    printed = capsys.readouterr().err.splitlines()[-len(lines) :]
    assert all(wanted in line for wanted, line in zip(lines, printed, strict=True)), printed


def test_verbs_are_the_stages_of_the_registry_and_others():
    assert list(cli.all_verbs()) == [*STAGES, *cli.VERBS]
    assert cli.VERBS[MERGE.name] == (MERGE.module, MERGE.help)


@pytest.mark.parametrize("verb", STAGES)
def test_launchers(verb):
    name = "train_tokenizer" if verb == "tokenizer" else verb
    source = (ROOT / "scripts" / f"{name}.py").read_text()
    assert source.startswith(f'"""python scripts/{name}.py --config configs/quickstart/{verb}.yaml\n')
    assert f'run_verb("{verb}")' in source
    assert verb in cli.all_verbs()


def test_errors_are_of_one_family():
    assert issubclass(ConfigError, HfkitError)
    assert (HfkitError.exit_status, ConfigError.exit_status) == (1, 2)


FAULTY = {
    "run": ["nowhere.yaml"],
    "plan": ["nowhere.yaml"],
    "quickstart": ["--configs", "nowhere"],
    "merge": ["nowhere", "out"],
    "export": ["nowhere", "out", "--format", "vllm"],
    "evaluate": ["/nowhere"],
    "arena": ["/nowhere"],
    "sample": ["/nowhere"],
    "label": ["/nowhere"],
    "bench": ["/nowhere"],
    "curve": ["nowhere.yaml", "--sizes", "1", "2"],
    "push": ["/nowhere", "user/name"],
    "pull": ["a/b/c", "out"],
    "report": ["/nowhere"],
    "chat": ["/nowhere", "--prompt", "x"],
    "serve": ["/nowhere"],
    "lineage": ["/nowhere"],
    "init": ["--yes"],
    "data cards": ["nothing"],
    "data check": ["nowhere.yaml"],
    "data preview": ["nowhere.yaml"],
    "data push": ["/nowhere", "user/name"],
    **{stage: ["--config", "nowhere.yaml"] for stage in STAGES},
}


def test_every_verb_reports_a_mistake_and_its_traceback_only_when_debugging(monkeypatch, tmp_path, capsys):
    assert FAULTY.keys() == cli.all_verbs().keys() - {"data"} | {f"data {verb}" for verb in cli.DATA_VERBS}
    monkeypatch.chdir(tmp_path)
    for verb, words in FAULTY.items():
        for debug in ("0", "1"):
            monkeypatch.setenv("HFKIT_DEBUG", debug)
            assert cli.main([*verb.split(), *words]) in (1, 2)
            printed = capsys.readouterr().err
            assert f"hfkit {verb}: " in printed and ("Traceback" in printed) == (debug == "1")


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["plan", "x.yaml", "--memory", "nan"], "argument --memory: 'nan': expected a number of GB, such as 24"),
        (["data", "check", "x.yaml", "--max_faults", "-1"], "--max_faults: '-1': expected a number from 0 to 1"),
        (["data", "preview", "x.yaml", "-n", "0"], "argument -n: '0': expected a number of at least 1"),
        (["chat", "x", "--seed", "-1"], "argument --seed: '-1': expected a number from 0 to 4294967295"),
        (["chat", "x", "--seed", "y"], "argument --seed: 'y': expected a number from 0 to 4294967295"),
        (["serve", "x", "--port", "70000"], "argument --port: '70000': expected a number from 0 to 65535"),
        (["chat", ".", "--revision", "v1"], "--revision: 'v1' has no effect on a folder"),
        (["merge", ".", "out", "--revision", "v1"], "--revision: 'v1' has no effect on a folder"),
    ],
)
def test_numbers_and_revisions_without_a_meaning_are_refused(words, printed, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2 and printed in capsys.readouterr().err


def test_python_runs_the_package():
    ran = subprocess.run([sys.executable, "-m", "hfkit", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, f"hfkit {__version__}\n")
