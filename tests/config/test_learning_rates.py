"""Learning rates by stage and mode: defaults, warnings, and the rates of the shipped configs."""

from pathlib import Path

import pytest
import yaml

from hfkit.config.learning_rates import rate_warning
from hfkit.config.parsing import parse
from hfkit.config.registry import STAGES
from hfkit.records.record import read_record

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
TRAINING = [name for name, spec in STAGES.items() if spec.trains_a_model]
DEFAULTS = {
    ("pretrain", False): 5e-4,
    ("pretrain", True): 2e-4,
    ("sft", False): 2e-5,
    ("sft", True): 2e-4,
    ("reward", False): 1e-5,
    ("reward", True): 1e-4,
    ("ppo", False): 3e-6,
    ("ppo", True): 1e-4,
}


def config(stage: str, use_peft: bool, rate: float | None = None):
    return STAGES[stage].config_class(output_dir="out", use_peft=use_peft, learning_rate=rate)


@pytest.mark.parametrize(("stage", "use_peft"), DEFAULTS)
def test_a_rate_that_is_not_given_is_that_of_the_stage_and_mode(stage, use_peft, tmp_path):
    rate = DEFAULTS[stage, use_peft]
    assert config(stage, use_peft).learning_rate == rate
    (tmp_path / "a.yaml").write_text("output_dir: out\nlearning_rate: null\n")
    argv = ["--config", str(tmp_path / "a.yaml"), "--use_peft", str(use_peft).lower()]
    assert parse(STAGES[stage].config_class, argv, "", "").learning_rate == rate
    assert parse(STAGES[stage].config_class, [*argv, "--learning_rate", "3e-3"], "", "").learning_rate == 3e-3
    assert rate_warning(stage, config(stage, use_peft)) is None


@pytest.mark.parametrize(
    ("stage", "use_peft", "rate", "warning"),
    [
        ("sft", False, 2e-4, "0.0002 is high for sft with full fine-tuning, where 1e-06 to 0.0001 is usual"),
        ("sft", True, 1e-6, "1e-06 is low for sft with LoRA, where 1e-05 to 0.005 is usual"),
        ("reward", False, 1e-3, "high for reward with full"),
        ("reward", True, 1e-6, "low for reward with LoRA"),
        ("ppo", False, 1e-4, "high for ppo with full"),
        ("ppo", True, 5e-3, "high for ppo with LoRA"),
        ("pretrain", False, 1e-7, "low for pretrain with full"),
    ],
)
def test_an_improbable_rate_is_warned_of(stage, use_peft, rate, warning):
    assert warning in rate_warning(stage, config(stage, use_peft, rate))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_shipped_configs_set_a_rate_and_none_gets_a_warning(path):
    if path.stem in TRAINING:
        given = yaml.safe_load(path.read_text())
        made = config(path.stem, given.get("use_peft", False), float(given["learning_rate"]))
        assert rate_warning(path.stem, made) is None


def test_the_record_has_the_rate_and_the_warning(run_stage, tmp_path, capsys):
    folder = run_stage("sft", tmp_path / "out", learning_rate=None, max_steps=1)
    assert read_record(folder)["config"]["learning_rate"] == 2e-4
    assert not any("learning_rate" in warning for warning in read_record(folder)["warnings"])
    folder = run_stage("sft", tmp_path / "low", learning_rate=1e-6, max_steps=1)
    assert any("1e-06 is low for sft with LoRA" in warning for warning in read_record(folder)["warnings"])
    assert "1e-06 is low for sft with LoRA" in capsys.readouterr().err
