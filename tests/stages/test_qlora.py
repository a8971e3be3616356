"""QLoRA in every stage: what is saved, and the logits that a fresh process computes from it."""

import json

import forks
import numpy as np
import pytest
import torch
from quick import mostly_slow
from read_rows import encode_conversation
from safetensors import safe_open

import hfkit
from hfkit.records.record import weights_hash
from hfkit.rlhf import policy_evaluation

pytestmark = pytest.mark.any_device
FLAGS = {"load_in_4bit": True, "use_peft": True}
STEPS = {"max_steps": 2, "save_steps": 2}
STAGES = ["pretrain", "sft", "reward", "dpo", "ppo"]
# argv: file of the rows, then stage=folder; loads each twice in a row.
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
import hfkit

rows = torch.from_numpy(np.load(sys.argv[1]))
for argument in sys.argv[2:]:
    stage, folder = argument.split("=")
    for turn in range(2):
        model = hfkit.load_reward(folder).model if stage == "reward" else hfkit.load_policy(folder)[0]
        with torch.no_grad():
            logits = model(rows.to(model.device), attention_mask=torch.ones_like(rows).to(model.device)).logits
        np.save(Path(sys.argv[1]).with_name(f"{stage}-{turn}.npy"), logits.float().cpu().numpy())
"""


@pytest.fixture(scope="module")
def rows(tokenizer) -> np.ndarray:
    ids = [
        encode_conversation(tokenizer, "What does Ann like?", f"Ann likes {c}.")[0] for c in ("red", "blue", "green")
    ]
    return np.array([row[: min(map(len, ids))] for row in ids])


@pytest.fixture(scope="module")
def chain(tmp_path_factory, config_of, base_dir, rows):
    """The stages over one 4-bit base: their folder, and the logits of each model when it was saved."""
    from importlib import import_module

    root = tmp_path_factory.mktemp("qlora")
    logits = {}

    def logged(save, stage):
        def save_and_log(model, *args):
            model.eval()
            with torch.no_grad():
                ids = torch.from_numpy(rows).to(model.device)
                logits[stage] = model(ids, attention_mask=torch.ones_like(ids)).logits.float().cpu().numpy()
            return save(model, *args)

        return save_and_log

    inputs = {
        "pretrain": {"model_name_or_path": str(base_dir), "model_config": {}, "lora_r": 4},
        "sft": {"model_name_or_path": str(base_dir)},
        "reward": {"model_name_or_path": str(root / "sft")},
        "dpo": {"model_name_or_path": str(root / "sft")},
        "ppo": {"model_name_or_path": str(root / "sft"), "reward_model_path": str(root / "reward")},
    }
    for stage in STAGES:
        with pytest.MonkeyPatch.context() as patch:
            saver = policy_evaluation if stage in ("dpo", "ppo") else import_module(f"hfkit.stages.{stage}")
            patch.setattr(saver, "save_model", logged(saver.save_model, stage))
            import_module(f"hfkit.stages.{stage}").main(
                config_of(stage, root / stage, **FLAGS, **STEPS, **inputs[stage])
            )
    return root, logits


@pytest.fixture(scope="module")
def fresh(chain, rows):
    root, _ = chain
    np.save(root / "rows.npy", rows)
    arguments = [f"{stage}={root / stage}" for stage in STAGES]
    ran = forks.run(SCRIPT, root / "rows.npy", *arguments, cwd=root)
    assert ran.returncode == 0, ran.stderr
    return lambda stage, turn: np.load(root / f"{stage}-{turn}.npy")


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("stage", STAGES)
def test_pain_01_and_23_a_fresh_process_gives_the_trainers_own_logits(chain, fresh, stage, turn):
    rounding = 2e-2 if torch.cuda.is_available() else 1e-5  # 4-bit layers compute in bf16 on a GPU
    assert np.abs(fresh(stage, turn) - chain[1][stage]).max() < rounding


@pytest.mark.parametrize("stage", STAGES)
def test_pain_28_and_29_only_a_small_adapter_is_saved_and_it_was_trained(chain, stage, base_dir):
    folder = chain[0] / stage
    assert [path.name for path in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]
    with safe_open(folder / "adapter_model.safetensors", "pt") as tensors:
        names = list(tensors.keys())
        assert all(".lora_" in name or name.endswith("score.weight") for name in names)
        assert any(tensors.get_tensor(name).abs().sum() > 0 for name in names if "lora_B" in name)
        assert {tensors.get_tensor(name).dtype for name in names} == {torch.float32}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base_dir)


def test_the_base_is_unchanged(chain, base_dir):
    assert (
        weights_hash(base_dir)
        == json.loads((chain[0] / "sft" / "hfkit.json").read_text())["lineage"][0]["weights_sha256"]
    )


def test_an_adapter_can_be_loaded_on_the_unquantized_base(chain, rows):
    folder, logits = chain[0] / "sft", chain[1]["sft"]
    model, _ = hfkit.load_policy(str(folder), quantization=None)
    assert not getattr(model.get_base_model(), "is_loaded_in_4bit", False)
    whole = model(torch.from_numpy(rows).to(model.device)).logits.detach().float().cpu().numpy()
    assert np.abs(whole - logits).max() > 1e-4
    assert np.corrcoef(whole.ravel(), logits.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("stage", mostly_slow(["sft", "reward", "dpo"], ["sft"]))
@pytest.mark.parametrize(
    "settings",
    mostly_slow([{"gradient_checkpointing": True}, {"bf16": True}, {"load_in_8bit": True}], [{"bf16": True}]),
)
def test_pain_26_a_quantized_base_trains_whatever_the_precision(stage, settings, run_stage, base_dir, tmp_path):
    flags = FLAGS | {"load_in_4bit": "load_in_8bit" not in settings}
    folder = run_stage(stage, tmp_path / "run", model_name_or_path=str(base_dir), **STEPS, **flags, **settings)
    with safe_open(folder / "adapter_model.safetensors", "pt") as tensors:
        changed = [tensors.get_tensor(name).abs().sum() > 0 for name in tensors.keys() if "lora_B" in name]
    assert all(changed)
