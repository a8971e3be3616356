"""Models that also read images, trained on text: Mistral 3 as a whole, Qwen 3.5 by its text model, Gemma 3."""

import re

import pytest
import torch
from forks import run_without_hfkit
from interruption import stopped_copy
from model_outputs import last_hidden, logits_at
from peft import TaskType
from quick import mostly_slow
from safetensors.torch import load_file
from small_models import REGISTERS_CLASSIFIERS
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

import hfkit
from hfkit.commands.merge import merge
from hfkit.config.stages import PPOConfig
from hfkit.models.adapter_shape import on_meta
from hfkit.models.loading import load_trainable
from hfkit.models.multimodal import language_config, parts_without_text
from hfkit.models.named_weights import named_weights
from hfkit.records.source import Source
from hfkit.rlhf.roles import value_from_reward

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
IMAGES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGES |= {"image_size": 28, "patch_size": 14}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MODELS = {
    "mistral3": ({"model_type": "mistral", **TEXT}, {"model_type": "pixtral", "head_dim": 8, **IMAGES}),
    "qwen3_5": (
        {**TEXT, **LINEAR, "layer_types": ["linear_attention", "full_attention"]},
        {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 4, "out_hidden_size": 32},
    ),
    "internvl": (
        {"model_type": "qwen3", **TEXT},
        {"model_type": "internvl_vision", **IMAGES, "image_size": [28, 28], "patch_size": [14, 14]},
    ),
    "lfm2_vl": (
        {"model_type": "lfm2", **TEXT, "layer_types": ["conv", "full_attention"]},
        {"model_type": "siglip2_vision_model", **IMAGES},
    ),
    "smolvlm": ({"model_type": "llama", **TEXT}, {"model_type": "smolvlm_vision", **IMAGES}),
    "qwen3_vl": (
        {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}},
        {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 4, "out_hidden_size": 32},
    ),
    "llava_next": (
        {"model_type": "llama", **TEXT},
        {"model_type": "clip_vision_model", **IMAGES},
    ),
    "gemma3": ({**TEXT, "layer_types": ["sliding_attention", "full_attention"]}, IMAGES),
}
"""Architecture -> the settings of its text model, and those of its vision model."""
OWN_CLASS = {*MODELS} - {"qwen3_5"}
"""Those that Transformers loads as a whole for text."""
STILL = {"learning_rate": 1e-9, "max_steps": 1}
made = pytest.mark.skipif(not REGISTERS_CLASSIFIERS, reason="Transformers before 5.19 registers no further classes")


@pytest.fixture
def checkpoint(tokenizer, tmp_path):
    """checkpoint(architecture) -> the folder of a tiny random model of images and text."""

    def make(architecture: str) -> str:
        torch.manual_seed(0)
        text, images = MODELS[architecture]
        tokens = {key: getattr(tokenizer, key) for key in ("eos_token_id", "bos_token_id")}
        parts = {"text_config": {**text, **tokens, "vocab_size": len(tokenizer)}, "vision_config": images}
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(architecture, **parts))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / architecture)
        tokenizer.save_pretrained(tmp_path / architecture)
        return str(tmp_path / architecture)

    return make


def plain_logits(path: str, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits that Transformers' own class for images and text computes from text."""
    with torch.no_grad():
        return AutoModelForImageTextToText.from_pretrained(path).eval()(input_ids=ids).logits


@made
@pytest.mark.parametrize("architecture", mostly_slow(MODELS, ["mistral3", "qwen3_5"]))
def test_the_text_model_computes_as_in_the_whole_one(architecture, checkpoint):
    path = checkpoint(architecture)
    model, tokenizer = hfkit.load_policy(path)
    ids = tokenizer("What does Ann like?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, plain_logits(path, ids), atol=1e-5)
    assert bool(parts_without_text(model)) == (architecture in OWN_CLASS)


@made
@pytest.mark.parametrize("architecture", mostly_slow(MODELS, ["mistral3", "qwen3_5"]))
def test_all_stages_train_it_and_what_they_save_opens_without_hfkit(architecture, checkpoint, run_stage, tmp_path):
    base = checkpoint(architecture)
    sft = run_stage("sft", tmp_path / "sft", model_name_or_path=base, learning_rate=1e-2, max_steps=2)
    names = [*load_file(sft / "adapter_model.safetensors")]
    assert names and not any(part in name for name in names for part in ("vision", "visual", "projector"))
    assert not torch.allclose(logits_at(sft), logits_at(base), atol=1e-3)
    reward = run_stage("reward", tmp_path / "reward", model_name_or_path=str(sft), **STILL)
    scores = hfkit.load_reward(str(reward))
    assert torch.allclose(last_hidden(scores.model), last_hidden(hfkit.load_policy(str(sft))[0]), atol=1e-5)
    models = {"model_name_or_path": str(sft), "reward_model_path": str(reward)}
    ppo = run_stage("ppo", tmp_path / "ppo", **models, learning_rate=1e-9, total_episodes=4, num_ppo_epochs=1)
    assert torch.allclose(logits_at(ppo), logits_at(sft), atol=1e-5)
    merged = merge(str(sft), tmp_path / "merged", "float32")
    assert torch.allclose(logits_at(merged), logits_at(sft), atol=1e-4)
    codes = []
    for folder in (sft, merged, reward):
        code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
        assert str(tmp_path) not in code
        if folder == reward:
            wanted = scores(["What is the capital of France?"], ["It is Paris."]).item()
            code += f"\nassert abs(model(**inputs).logits.item() - {wanted}) < 1e-4"
        else:
            model, tokenizer = hfkit.load_policy(str(folder))
            with torch.no_grad():
                wanted = model(**tokenizer("Ann", return_tensors="pt")).logits[0, -1, :4].tolist()
            code += "\nlogits = model(**tokenizer('Ann', return_tensors='pt')).logits[0, -1, :4].tolist()"
            code += f"\nassert all(abs(a - b) < 1e-4 for a, b in zip(logits, {wanted}))"
        codes.append(code)
    run_without_hfkit("\n".join(codes), cwd=tmp_path)


@made
@pytest.mark.parametrize("architecture", mostly_slow(MODELS, ["mistral3"]))
def test_a_whole_model_is_trained_and_its_vision_model_stays(architecture, checkpoint, run_stage, tokenizer, tmp_path):
    base = checkpoint(architecture)
    sft = run_stage("sft", tmp_path / "sft", model_name_or_path=base, use_peft=None, lora_r=None, max_steps=1)
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (base, sft))
    others = [name for name in after if any(part in name for part in ("vision", "visual", "projector"))]
    assert bool(others) == (architecture in OWN_CLASS)
    assert all(torch.equal(before[name], after[name]) for name in others)
    assert not torch.allclose(logits_at(sft), logits_at(base), atol=1e-4)
    assert AutoConfig.from_pretrained(sft).get_text_config().pad_token_id == tokenizer.pad_token_id


@made
@pytest.mark.parametrize("architecture", mostly_slow(MODELS, ["mistral3"]))
def test_a_whole_model_resumes_with_the_weights_of_its_checkpoint(architecture, checkpoint, run_stage, tmp_path):
    """The names of weights in files are older than those of modules, and a trainer would ignore them."""
    changes = {"model_name_or_path": checkpoint(architecture), "use_peft": None, "lora_r": None, "max_steps": 2}
    changes |= {"save_steps": 1, "save_total_limit": None, "learning_rate": 1e-2}
    whole = run_stage("sft", tmp_path / "whole", **changes)
    stopped = stopped_copy(whole, tmp_path / "stopped", 1)
    run_stage("sft", stopped, **changes, resume_from_checkpoint=True)
    ends = [load_file(folder / "model.safetensors") for folder in (whole, stopped)]
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())
    assert torch.equal(logits_at(whole / "checkpoint-2"), logits_at(whole))


@made
@pytest.mark.parametrize("reward_model", [None, "full"])
def test_full_training_gives_each_trained_weight_a_gradient(reward_model, checkpoint, tmp_path):
    """DistributedDataParallel fails otherwise."""
    base = checkpoint("llava_next")
    config = PPOConfig(model_name_or_path=base, output_dir=str(tmp_path / "ppo"), use_peft=False, dtype="float32")
    if reward_model:
        value = value_from_reward(load_trainable(config, TaskType.SEQ_CLS), config, Source.of(base, "main"))
    models = [value] if reward_model else [load_trainable(config), load_trainable(config, TaskType.SEQ_CLS)]
    for model in models:
        model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert trained == {name for name, weight in model.named_parameters() if weight.grad is not None}


@made
def test_the_vision_model_may_be_at_the_top_of_a_model():
    model = on_meta(language_config(AutoConfig.for_model("kosmos-2")), AutoModelForCausalLM)
    assert parts_without_text(model) == ["vision_model", "image_to_text_projection"]


@pytest.mark.parametrize("architecture", ["qwen3_5"])
def test_other_engines_get_the_weights_under_the_names_of_the_checkpoint(architecture, checkpoint):
    path = checkpoint(architecture)
    stored = {name for name in load_file(f"{path}/model.safetensors") if "visual" not in name}
    assert {one.name for one in named_weights(hfkit.load_policy(path)[0])} == stored
