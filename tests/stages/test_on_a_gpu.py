"""On a GPU: each stage in each method, each engine, and what the verbs make of their folders."""

import math

import pytest
import torch
from model_outputs import logits
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import hfkit
from hfkit.cli import main
from hfkit.commands.merge import merge
from hfkit.models.classifiers import is_generic
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record

pytestmark = pytest.mark.gpu
METHODS = {
    "LoRA": {},
    "LoRA in float32": {"bf16": False},
    "LoRA, recomputed": {"gradient_checkpointing": True},
    "4 bits": {"load_in_4bit": True},
    "8 bits": {"load_in_8bit": True},
    "whole": {"use_peft": None, "lora_r": None},
}
PROMPT = "What does Ann like?"


@pytest.fixture(scope="module")
def chain(run_stage, base_dir, tmp_path_factory):
    """chain(method) -> the folders of SFT, reward model and PPO, each started from the ones before."""
    made = {}

    def make(method: str) -> dict:
        if method not in made:
            root, settings = tmp_path_factory.mktemp("chain"), METHODS[method]
            sft = run_stage("sft", root / "sft", model_name_or_path=str(base_dir), **settings)
            reward = run_stage("reward", root / "reward", model_name_or_path=str(sft), **settings)
            models = {"model_name_or_path": str(sft), "reward_model_path": str(reward)}
            ppo = run_stage("ppo", root / "ppo", **models, test_split_size=4, **settings)
            made[method] = {"sft": sft, "reward": reward, "ppo": ppo}
        return made[method]

    return make


@pytest.mark.parametrize("method", METHODS)
def test_each_stage_trains_there(chain, method):
    for folder in chain(method).values():
        record = read_record(folder)
        assert (record["status"], record["environment"]["device"]) == ("done", torch.cuda.get_device_name())
        assert 0 < record["peak_memory_bytes"] < 10**9
        assert record["gradient_checkpointing"]["enabled"] == (method == "LoRA, recomputed")
        figures = [value for row in read_metrics(folder) for value in row.values() if isinstance(value, float)]
        assert figures and all(map(math.isfinite, figures))
        weights = load_file(folder / ("model.safetensors" if method == "whole" else "adapter_model.safetensors"))
        assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in weights.values())
        assert method == "whole" or all(tensor.any() for name, tensor in weights.items() if "lora_B" in name)


@pytest.mark.parametrize("method", METHODS)
def test_plain_transformers_on_a_cpu_opens_the_same_policy(chain, method, tmp_path):
    for stage in ("sft", "ppo"):
        folder = chain(method)[stage]
        policy, _ = hfkit.load_policy(str(folder), dtype="float32", quantization=None)
        assert policy.device.type == "cuda"
        merged = folder if method == "whole" else merge(str(folder), tmp_path / stage, "float32")
        plain = AutoModelForCausalLM.from_pretrained(merged)
        assert torch.allclose(logits(policy), logits(plain), atol=2e-2)  # TF32


@pytest.mark.parametrize("method", METHODS)
def test_a_reward_model_ranks_there_as_on_a_cpu(chain, method):
    reward = hfkit.load_reward(str(chain(method)["reward"]), dtype="float32")
    assert reward.model.device.type == "cuda" and not is_generic(type(reward.model))
    texts = [PROMPT] * 2, ["Ann likes red, thank you.", "red"]
    there = reward(*texts)
    if "bits" not in method:  # their kernels differ
        reward.model.cpu()
        assert torch.allclose(there, reward(*texts), atol=1e-3)
    assert there.isfinite().all() and there[0] != there[1]


@pytest.mark.parametrize("settings", [{}, {"bf16": False}, {"load_in_4bit": True}], ids=str)
@pytest.mark.parametrize("engine", ["generate", "static", "continuous"])
def test_each_engine_samples_there(chain, run_stage, tmp_path, engine, settings):
    folders = chain("4 bits" if settings.get("load_in_4bit") else "LoRA")
    models = {"model_name_or_path": str(folders["sft"]), "reward_model_path": str(folders["reward"])}
    with torch.compiler.set_stance("force_eager"):  # half a minute less
        folder = run_stage("ppo", tmp_path / "ppo", rollout_engine=engine, **models, **settings)
    assert read_record(folder)["rollout_engine"].startswith(f"transformers.{engine}")
    kl = [row["objective/kl"] for row in read_metrics(folder) if "objective/kl" in row]
    assert abs(kl[0]) < 1e-4 < abs(kl[-1])


@pytest.mark.parametrize("method", ["LoRA", "4 bits", "whole"])
@pytest.mark.parametrize("stage", ["dpo", "grpo", "rloo"])
def test_the_siblings_of_ppo_train_there(chain, run_stage, tmp_path, stage, method):
    folders, scored = chain(method), stage != "dpo"
    models = {"model_name_or_path": str(folders["sft"])}
    models |= {"reward_model_path": str(folders["reward"]), "test_split_size": 4} if scored else {}
    folder = run_stage(stage, tmp_path / stage, **models, **METHODS[method])
    record, rows = read_record(folder), read_metrics(folder)
    assert (record["status"], record["environment"]["device"]) == ("done", torch.cuda.get_device_name())
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses and all(map(math.isfinite, losses))
    file = "model.safetensors" if method == "whole" else "adapter_model.safetensors"
    before, after = load_file(folders["sft"] / file), load_file(folder / file)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert any(not torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("method", ["LoRA", "4 bits", "whole"])
@pytest.mark.parametrize("engine", ["static", "continuous"])
def test_each_engine_samples_for_grpo_there(chain, run_stage, tmp_path, engine, method):
    folders = chain(method)
    models = {"model_name_or_path": str(folders["sft"]), "reward_model_path": str(folders["reward"])}
    with torch.compiler.set_stance("force_eager"):  # half a minute less
        folder = run_stage("grpo", tmp_path / "grpo", rollout_engine=engine, **models, **METHODS[method])
    assert read_record(folder)["rollout_engine"].startswith(f"transformers.{engine}")
    kl = [row["objective/kl"] for row in read_metrics(folder) if "objective/kl" in row]
    assert abs(kl[0]) < 1e-3 and len(kl) == 2


@pytest.mark.parametrize("method", ["LoRA", "4 bits", "whole"])
def test_every_verb_reads_it(chain, method, data, tmp_path, capsys):
    sft, reward, ppo = map(str, chain(method).values())
    prompts = ["--prompts", str(data / "prompts.jsonl"), "--judge", "function", "--resamples", "20"]
    judge = [*prompts, "--reward_function", "reward_functions:length", "--diversity_samples", "1"]
    out = str(tmp_path / "evaluated")
    small = ["--max_prompts", "4", "--response_length", "4"]
    commands = [
        ["evaluate", ppo, "--against", f"before={sft}", "--reward_model", reward, "--output_dir", out, *small],
        ["evaluate", reward, "--output_dir", f"{out}-reward"],
        ["arena", f"one={sft}", f"other={ppo}", *judge, *small[2:], "--output_dir", str(tmp_path / "arena")],
        ["chat", ppo, "--prompt", PROMPT, "--length", "4"],
        ["chat", ppo, "--against", sft, "--prompt", PROMPT, "--length", "4"],
    ]
    commands += [] if method == "whole" else [["merge", ppo, str(tmp_path / "merged")]]
    for words in commands:
        assert main(words) == 0, capsys.readouterr().err
    assert (tmp_path / "arena" / "arena.json").is_file() and (tmp_path / "evaluated" / "evaluation.json").is_file()
