"""PEFT adapters of every shape: stages start exactly from them, or refuse them before loading weights."""

import pytest
import torch
from merging import edit
from model_outputs import last_hidden, logits
from peft import LoraConfig, PeftModel, get_peft_model
from quick import slow
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

import hfkit
from hfkit.commands.merge import merge
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.models.loading import load_trainable
from hfkit.records.record import read_record
from hfkit.rlhf.roles import load_roles

STILL = {"learning_rate": 1e-9, "max_steps": 1, "lora_r": None, "lora_dropout": 0.0}
FUNCTIONS = {"reward_model_path": None, "reward_functions": ["reward_functions:length"]}
ATTENTION = ["q_proj", "v_proj"]
SHAPES = {
    "whole head and embedding": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "whole embedding": {"modules_to_save": ["embed_tokens"]},
    "whole norm": {"modules_to_save": ["norm"]},
    "tokens": {"trainable_token_indices": [6, 7, 8]},
    "embedding": {"target_modules": [*ATTENTION, "embed_tokens"]},
    "head": {"target_modules": [*ATTENTION, "lm_head"]},
    "ranks": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    "DoRA": {"use_dora": True},
    "bias of B": {"lora_bias": True},
    "one layer": {"layers_to_transform": [1]},
    "pattern": {"target_modules": r".*layers\.1\..*(q|up)_proj"},
    "excluded": {"exclude_modules": ["v_proj"], "target_modules": ATTENTION},
    "gaussian": {"init_lora_weights": "gaussian"},
    "MiCA": {"init_lora_weights": "mica"},
}
CHANGE_THE_BASE = {
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "biases": {"bias": "all"},
}


QUICK = {True: ("whole head and embedding",), False: ()}
"""Shapes of the quick suite, by whether head and embedding are tied; all others are slow."""
STARTS = [
    pytest.param(tied, shape, id=f"{name}, {'tied' if tied else 'untied'}", marks=[pytest.mark.slow] * is_slow)
    for name, shape in SHAPES.items()
    for tied in (False, True)
    for is_slow in [name not in QUICK[tied]]
]


UNTIED_IS_SLOW = [
    pytest.param(False, id="untied", marks=pytest.mark.slow),
    pytest.param(True, id="tied"),
]


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def base(request, tokenizer, tmp_path_factory) -> str:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"vocab_size": len(tokenizer), "tie_word_embeddings": request.param, "attention_bias": True}
    shape |= {"max_position_embeddings": 256, "eos_token_id": tokenizer.eos_token_id}
    folder = tmp_path_factory.mktemp("base")
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def adapter(base, tokenizer, tmp_path):
    """adapter(**shape) -> a trained adapter of this shape on the base."""

    def make(**shape) -> str:
        model = AutoModelForCausalLM.from_pretrained(base)
        model = get_peft_model(model, LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": ATTENTION, **shape}))
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * 0.1
        model.save_pretrained(tmp_path / "theirs")
        tokenizer.save_pretrained(tmp_path / "theirs")
        return str(tmp_path / "theirs")

    return make


def opened(path, base):
    """The adapter as PEFT opens it."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), path)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("base", "shape"), STARTS, indirect=["base"])
def test_every_stage_starts_as_the_adapter_and_what_it_saves_opens_as_it(
    shape, base, adapter, run_stage, config_of, tmp_path
):
    theirs = adapter(**shape)
    wanted, hidden = logits(opened(theirs, base)), last_hidden(opened(theirs, base))
    assert not same(wanted, logits(AutoModelForCausalLM.from_pretrained(base)))
    assert same(logits(hfkit.load_policy(theirs)[0]), wanted)
    folder = run_stage("sft", tmp_path / "sft", model_name_or_path=theirs, **STILL)
    assert same(logits(opened(folder, base)), wanted)
    reward = run_stage("reward", tmp_path / "reward", model_name_or_path=theirs, **STILL)
    assert same(last_hidden(hfkit.load_reward(str(reward)).model), hidden)
    still = {"learning_rate": 1e-9, "model_name_or_path": theirs}
    folder = run_stage("ppo", tmp_path / "ppo", reward_model_path=str(reward), **still)
    assert same(logits(opened(folder, base)), wanted)
    for changes in ({"reward_model_path": str(reward)}, FUNCTIONS):
        roles = load_roles(config_of("ppo", tmp_path / "roles", **still, **changes))
        assert same(last_hidden(roles.value), hidden)
        assert same(logits(roles.reference), wanted)
    full = load_trainable(config_of("sft", tmp_path / "f", model_name_or_path=theirs, use_peft=None, lora_r=None))
    assert same(logits(full), wanted)
    merged = merge(theirs, tmp_path / "merged", "float32")
    assert same(logits(AutoModelForCausalLM.from_pretrained(merged)), wanted)
    merged = merge(str(reward), tmp_path / "merged reward", "float32")
    assert same(last_hidden(AutoModelForSequenceClassification.from_pretrained(merged)), hidden)


@pytest.mark.parametrize("base", UNTIED_IS_SLOW, indirect=True)
@pytest.mark.parametrize("shape", CHANGE_THE_BASE.values(), ids=CHANGE_THE_BASE)
def test_what_changes_the_base_is_refused_before_loading_but_merged(shape, base, adapter, config_of, tmp_path, request):
    theirs = adapter(**shape)
    wanted = logits(opened(theirs, base))
    merged = merge(theirs, tmp_path / "merged", "float32")
    assert same(logits(AutoModelForCausalLM.from_pretrained(merged)), wanted)
    request.getfixturevalue("no_weights")  # forbid loading weights from here on
    for stage, changes in (("sft", {"lora_r": None}), ("reward", {}), ("ppo", FUNCTIONS)):
        with pytest.raises(ConfigError, match=r"it changes its base .*: merge it with `hfkit merge`"):
            config_of(stage, tmp_path / "out", model_name_or_path=theirs, **changes)
    with pytest.raises(HfkitError, match="it changes its base"):
        hfkit.load_policy(theirs)


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"init_lora_weights": "loftq"}, r"it changes its base \(init_lora_weights: loftq\).*: merge it with PEFT"),
        ({"init_lora_weights": "pissa_niter_4"}, r"it changes its base .*: convert it with PEFT"),
        ({"layer_replication": [[0, 2]]}, r"it changes its base \(layer_replication\).*: merge it with PEFT"),
        ({"bias": None}, "sets bias to null, which PEFT cannot open"),
        ({"alora_invocation_tokens": [3]}, "sets alora_invocation_tokens, which hfkit cannot train"),
        ({"peft_type": "IA3"}, "a IA3 adapter, but hfkit continues only LoRA"),
    ],
)
def test_what_cannot_be_copied_is_refused(changes, reported, sft_dir, copy, config_of, tmp_path):
    folder = copy(sft_dir)
    edit(folder / "adapter_config.json", **changes)
    with pytest.raises(ConfigError, match=reported):
        config_of("sft", tmp_path / "out", model_name_or_path=str(folder), lora_r=None)


@pytest.mark.slow
def test_an_embedding_that_was_trained_without_saying_so_is_refused(sft_dir, base_dir, copy, config_of, tmp_path):
    folder, name = copy(sft_dir), "model.embed_tokens.weight"
    file, embedding = folder / "adapter_model.safetensors", load_file(base_dir / "model.safetensors")[name]
    weights, config = load_file(file), {"model_name_or_path": str(folder), "lora_r": None}
    save_file({**weights, f"base_model.model.{name}": embedding}, file)
    load_trainable(config_of("sft", tmp_path / "out", **config))
    save_file({**weights, f"base_model.model.{name}": embedding + 1}, file)
    for load in (lambda: load_trainable(config_of("sft", tmp_path / "out", **config)), hfkit.load_policy):
        with pytest.raises(HfkitError, match=r"it has different weights for model.embed_tokens.weight"):
            load(str(folder)) if load is hfkit.load_policy else load()


@pytest.mark.parametrize("base", UNTIED_IS_SLOW, indirect=True)
@pytest.mark.parametrize("shape", [SHAPES["head"], SHAPES["whole head and embedding"]], ids=["LoRA", "whole"])
def test_a_continued_head_is_trained(shape, adapter, run_stage, tmp_path):
    theirs = adapter(**shape)
    moving = {**STILL, "learning_rate": 1e-2, "max_steps": 2}
    folder = run_stage("sft", tmp_path / "sft", model_name_or_path=theirs, **moving)
    before, after = (load_file(f"{path}/adapter_model.safetensors") for path in (theirs, folder))
    names = [name for name in after if "lora_B" in name or "lora_" not in name]
    assert [name for name in names if torch.allclose(before[name], after[name], atol=1e-4)] == []


@pytest.mark.parametrize(
    ("stage", "more"),
    [("sft", {}), slow("sft", {"loss_type": "dft"}), slow("reward", {}), slow("ppo", FUNCTIONS)],
)
@pytest.mark.parametrize("base", UNTIED_IS_SLOW, indirect=True)
def test_lora_on_the_head_works_in_every_stage_and_merges(stage, more, base, config_of, run_stage, tmp_path):
    lora = {"model_name_or_path": base, "lora_target_modules": [*ATTENTION, "lm_head"], "learning_rate": 1e-2}
    changes = {**lora, **more}
    folder = run_stage(stage, tmp_path / stage, **changes)
    if stage == "reward":
        return  # this stage has no such head
    weights = load_file(folder / "adapter_model.safetensors")
    assert any("lm_head" in name and "lora_B" in name and tensor.any() for name, tensor in weights.items())
    merged = merge(str(folder), tmp_path / "merged", "float32")
    assert same(logits(AutoModelForCausalLM.from_pretrained(merged)), logits(opened(folder, base)))


@pytest.mark.parametrize("base", UNTIED_IS_SLOW, indirect=True)
def test_the_loss_through_an_adapted_head_is_that_of_a_plain_one(base, run_stage, tmp_path):
    """At the first evaluation the new adapter adds zero."""
    losses = []
    for modules in (ATTENTION, [*ATTENTION, "lm_head"]):
        settings = {"model_name_or_path": base, "lora_target_modules": modules, **STILL, "lora_r": 4}
        folder = run_stage("sft", tmp_path / str(len(modules)), **settings)
        losses.append(read_record(folder)["metrics"]["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_whole_modules_on_a_16_bit_base_are_warned_about(adapter, config_of, tmp_path, capsys):
    theirs = adapter(**SHAPES["whole embedding"])
    load_trainable(config_of("sft", tmp_path / "out", model_name_or_path=theirs, dtype="bfloat16", lora_r=None))
    assert "trains embed_tokens in 16 bits" in capsys.readouterr().err
