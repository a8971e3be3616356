"""`hfkit plan`: steps and disk, what it advises, pipelines, what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pipelines import STAGES
from planned import CPU, LLAMA, LLAMA_8B, LORA, ROOT, ROWS, plan_8b, run
from quick import slow

from hfkit import cli
from hfkit.commands.plan.advice import remedies
from hfkit.commands.plan.read_stages import read_stages
from hfkit.commands.plan.steps import plan_steps
from hfkit.core.errors import ConfigError
from hfkit.stages.read_configs import infer_stage
from hfkit.training.memory.device import Device
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.shapes import roles_of


@pytest.mark.parametrize(
    ("capacity", "bits", "enough"),
    [slow(15, "load_in_8bit", True), (10, "load_in_4bit", True), slow(7, "load_in_4bit", False)],
)
def test_advice_is_of_flags_that_lower_the_peak_and_says_which_are_enough(llama_8b, tmp_path, capacity, bits, enough):
    card = Device("a card", capacity * 10**9, 600_000_000, is_gpu=True)
    stage = plan_8b(llama_8b, tmp_path, load_in_4bit=False, gradient_checkpointing=False, dtype="bfloat16")
    now, found = plan_memory(stage, card).peak, remedies(stage, card)
    assert now > card.capacity
    assert all(remedy.peak < now for remedy in found)
    assert any(remedy.flags == {"merge_in_rollouts": False} for remedy in found)
    assert (found[-1].peak <= card.capacity) == enough
    assert found[-1].flags.keys() >= {"gradient_checkpointing", bits}


@pytest.mark.slow
def test_whole_weights_are_not_advised_to_be_trained_in_16_bits(stage_for, llama_8b):
    stage = stage_for("sft", model_name_or_path=llama_8b)
    found = remedies(stage, Device("a small machine", plan_memory(stage, CPU).peak // 2, 0, is_gpu=False))
    assert any("dtype" in remedy.flags for remedy in found)
    assert all(remedy.flags.get("use_peft") for remedy in found if "dtype" in remedy.flags)


def test_quantization_of_full_fine_tuning_is_advised_with_a_base_in_16_bits(stage_for, llama_8b):
    stage = stage_for("sft", model_name_or_path=llama_8b, dtype="float32")
    found = remedies(stage, Device("a GPU", 24 * 10**9, 0, is_gpu=True))
    quantized = [remedy for remedy in found if remedy.flags.get("load_in_4bit")]
    assert quantized and all(remedy.flags["dtype"] == "bfloat16" for remedy in quantized)
    assert min(remedy.peak for remedy in quantized) <= 24 * 10**9


def test_smaller_batches_keep_the_rows_of_an_optimizer_step(stage_for):
    stage = stage_for("sft", per_device_train_batch_size=8)
    device = Device("a small machine", int(plan_memory(stage, CPU).peak * 0.6), 0, is_gpu=False)
    flags = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    assert flags in [remedy.flags for remedy in remedies(stage, device) if remedy.peak <= device.capacity]


def test_steps_and_tokens_are_counted_in_local_files(stage_for, rows_file):
    stage = stage_for("sft", max_steps=-1, num_train_epochs=2.0, test_split_size=0.25, gradient_accumulation_steps=2)
    steps = plan_steps(stage, roles_of(stage))
    assert (steps.steps, steps.tokens) == (6, 6 * 8 * 160)  # 24 of 32 rows, 3 steps of 8 an epoch
    ppo = plan_steps(stage := stage_for("ppo", num_mini_batches=2, num_ppo_epochs=3), roles_of(stage))
    assert (ppo.steps, ppo.tokens) == (3 * 2, 8 * 96)
    groups = {"num_generations": 4, "num_iterations": 2, "per_device_train_batch_size": 8, "num_train_epochs": 2.0}
    grpo = plan_steps(stage := stage_for("grpo", **groups, max_steps=-1), roles_of(stage))
    assert (grpo.steps, grpo.tokens) == (2 * 8 * 2, 32 * 16 * 96)  # 8 batches of 4 prompts, each used twice
    unknown = plan_steps(stage := stage_for("pretrain", max_steps=-1), roles_of(stage))
    assert (unknown.steps, unknown.unknown) == (None, "documents are packed into rows after encoding")
    unknown = stage_for("sft", max_steps=-1, datasets=[{"path": "someone/rows"}])
    assert plan_steps(unknown, roles_of(unknown)).unknown == "someone/rows is not on this machine"


@pytest.mark.parametrize(("name", "changes"), [("pretrain", {}), slow("sft", {**LORA, "lora_r": 64}), slow("ppo", {})])
def test_the_disk_is_that_of_a_run(stage_for, name, changes):
    stage = stage_for(name, **changes, save_strategy="steps", save_steps=1, save_total_limit=2)
    run(stage)
    folder = Path(stage.config.output_dir)
    files = [path for kind in ("*.safetensors", "optimizer.pt") for path in folder.rglob(kind)]
    disk = plan_steps(stage, roles_of(stage)).disk
    assert disk == pytest.approx(sum(path.stat().st_size for path in files), rel=0.15)


PIPELINE = {"output_dir": "runs", "stages": {name: f"{name}.yaml" for name in STAGES}}


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """The YAML of a pipeline of which nothing has run, in the folder where the test stands."""
    monkeypatch.chdir(tmp_path)
    for name in STAGES:
        shutil.copy(ROOT / f"configs/quickstart/{name}.yaml", tmp_path)
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(PIPELINE))
    return "pipeline.yaml"


def test_a_pipeline_is_planned_from_configs_alone(pipeline, capsys):
    assert cli.main(["plan", pipeline, "--sft.lora_r", "8", "--ppo.total_episodes", "128"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in ("pretrain", "sft", "reward", "ppo policy") if f"│ {name} " not in shown] == []
    stages = {stage.spec.name: stage for stage in read_stages(pipeline, None, None, ["--sft.lora_r", "8"])}
    assert stages["sft"].start.config.vocab_size == 1024  # the tokenizer's, which is not trained yet
    assert stages["ppo"].start.source.adapter["r"] == stages["ppo"].reward.source.adapter["r"] == 8
    assert stages["ppo"].shares_vocabulary
    assert not Path("runs").exists()


def test_other_problems_of_a_pipeline_are_reported_as_usual(pipeline, capsys):
    assert cli.main(["plan", pipeline, "--sft.lora_r", "0", "--ppo.kl_coeff", "1"]) == 2
    reported = capsys.readouterr().err
    assert "sft.lora_r: 0 -> must be above 0" in reported
    assert "ppo.--kl_coeff: '1' -> unknown; did you mean --kl_coef?" in reported
    assert len(reported.splitlines()) == 3


def test_what_does_not_fit_comes_with_flags(pipeline, capsys):
    assert cli.main(["plan", pipeline, "--memory", "0.9"]) == 1
    shown = capsys.readouterr().out
    assert "reward does not fit" in shown
    assert "--reward.gradient_checkpointing true" in shown


@pytest.fixture(scope="module")
def in_bfloat16(folder_of) -> str:
    """`llama_8b` with weights in bfloat16."""
    return folder_of({**LLAMA_8B, "dtype": "bfloat16"}, weights=False)


@pytest.mark.slow
def test_another_gpu_is_planned_with_its_defaults(in_bfloat16, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(ROWS["sft"][0]) + "\n")
    settings = {"datasets": [{"path": str(rows)}], "use_peft": True, "model_name_or_path": in_bfloat16}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(settings | {"max_tokens_per_micro_batch": 2048}))

    def shown(*words, fits: bool = True) -> str:
        assert cli.main(["plan", str(tmp_path / "sft.yaml"), *words]) == (0 if fits else 1)
        return capsys.readouterr().out

    assert "sft: dtype: bfloat16; gradient_checkpointing: off, since the run needs" in shown("--gpu", "141")
    small = shown("--gpu", "24")
    assert "sft: dtype: bfloat16; gradient_checkpointing: on, since the run needs" in small and "2,048" in small
    assert "sft: dtype: float32; gradient_checkpointing: off\n" in shown(
        "--gpu", "80", "--use_peft=false", *EXPLICIT, fits=False
    )
    assert "sft: dtype: float32; gradient_checkpointing: off\n" in shown("--memory", "24", fits=False)


def test_what_a_run_chooses_is_what_must_fit(in_bfloat16, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(ROWS["sft"][0]) + "\n")
    settings = {
        "datasets": [{"path": str(rows)}],
        "use_peft": True,
        "model_name_or_path": in_bfloat16,
        "max_length": 2048,
    }
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(settings))
    assert cli.main(["plan", str(tmp_path / "sft.yaml"), "--gpu", "24"]) == 0
    shown = capsys.readouterr().out
    assert "sft: the run chooses micro-batches of 2,048 tokens: " in shown and "does not fit" not in shown
    assert cli.main(["plan", str(tmp_path / "sft.yaml"), "--gpu", "24", "--micro_batches_by_length=false"]) == 1
    assert "sft does not fit: its peak of 27.5 GB is more than 24.0 GB." in capsys.readouterr().out


EXPLICIT = ("--gradient_checkpointing=false",)


@pytest.mark.slow
def test_no_weights_are_read(llama_8b, tmp_path, capsys):
    folder = llama_8b
    assert not list(Path(folder).glob("*.safetensors"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(ROWS["sft"][0]) + "\n")
    (tmp_path / "sft-8b.yaml").write_text(yaml.safe_dump({"datasets": [{"path": str(rows)}], "use_peft": True}))
    command = [
        "plan",
        str(tmp_path / "sft-8b.yaml"),
        "--model_name_or_path",
        folder,
        "--load_in_4bit",
        "--memory",
        "400",  # what does not fit ends with 1
    ]
    assert cli.main(command) == 0
    assert "8,072.20 M" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "keys", "stage"),
    [
        ("sft.yaml", {}, "sft"),
        ("sft-8b.yaml", {"max_length": 64}, "sft"),
        ("my_sft.8b.yaml", {}, "sft"),
        ("sft-after-dpo.yaml", {"block_size": 64}, "pretrain"),
        ("mine.yaml", {"reward_model_path": "x", "kl_coef": 0.1}, "ppo"),
        ("mine.yaml", {"block_size": 64}, "pretrain"),
        ("mine.yaml", {"center_rewards_coefficient": 0.01, "max_length": 64}, "reward"),
    ],
)
def test_the_stage_is_found_by_name_or_keys(file, keys, stage):
    assert infer_stage(file, keys) == stage


@pytest.mark.parametrize("keys", [{"max_length": 64}, {}, {"block_size": 64, "kl_coef": 0.1}])
def test_an_ambiguous_stage_is_asked_for(keys):
    with pytest.raises(ConfigError, match="name its stage: --stage"):
        infer_stage("mine.yaml", keys)


def test_errors_are_reported_without_a_traceback(folder_of, tmp_path, capsys):
    def reported(*words) -> str:
        assert cli.main(["plan", *words]) == 2
        return capsys.readouterr().err

    assert "no such file" in reported(str(tmp_path / "none.yaml"))
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"datasets": [{"path": "rows.jsonl"}], "max_length": 64}))
    assert "--stage pretrain|sft|reward|dpo|ppo|grpo|rloo" in reported(str(mine))
    assert "expected one of: pretrain, sft, reward, dpo, ppo, grpo, rloo" in reported(str(mine), "--stage", "tokenizer")
    assert "model_name_or_path: None -> missing" in reported(str(mine), "--stage", "sft")
    folder = Path(folder_of(LLAMA, weights=False))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llamb"}))
    assert "llamb" in reported(str(mine), "--stage", "sft", "--model_name_or_path", str(folder))
    encoder = folder_of({"model_type": "t5", "d_model": 32, "num_layers": 1}, weights=False)
    assert "t5 is not a causal language model" in reported(str(mine), "--stage", "sft", "--model_name_or_path", encoder)


def test_rollouts_over_a_4_bit_base_hold_merged_copies_where_they_fit(llama_8b, tmp_path):
    """In bfloat16, of all 224 matrices of 32 layers: 14 GB."""
    plans, merged = {}, plan_8b(llama_8b, tmp_path, dtype="bfloat16")
    stages = [merged, replace(merged, config=replace(merged.config, merge_in_rollouts=False))]
    for capacity in (80, 20):
        card = Device("a card", capacity * 10**9, 600_000_000, is_gpu=True)
        plans[capacity] = [plan_memory(stage, card).phases["rollout"] for stage in stages]
    assert 13.9e9 < plans[80][0] - plans[80][1] < 14.6e9
    assert plans[20][0] == plans[20][1] == plans[80][1]


@pytest.mark.slow
def test_rollouts_with_vllm_hold_its_share_of_the_gpu_or_the_buffers_for_a_server(llama_8b, tmp_path):
    card = Device("a card", 80 * 10**9, 600_000_000, is_gpu=True)
    stage = plan_8b(llama_8b, tmp_path, rollout_engine="vllm", vllm_gpu_memory_utilization=0.4)
    server = replace(stage, config=replace(stage.config, vllm_mode="server"))
    inside, outside = (plan_memory(one, card).phases["rollout"] for one in (stage, server))
    merged = 2 * 4 * 128256 * 4096  # the largest matrix in float32, and its change
    assert (inside, outside) == (merged + 32 * 10**9, merged + (4 << 30))
