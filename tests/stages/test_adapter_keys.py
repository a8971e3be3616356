"""The keys of a new adapter: what their spellings adapt, what is refused before loading, what is saved and reloaded."""

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from merging import edit
from model_outputs import last_hidden, logits, logits_at
from packaging.version import Version
from peft import PeftModel
from quick import mostly_slow, slow
from safetensors.torch import load_file
from small_models import model_of
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import hfkit
from hfkit.cli import main
from hfkit.commands.chat.main import chat
from hfkit.commands.merge import merge
from hfkit.config.parsing import parse
from hfkit.config.registry import STAGES
from hfkit.config.stages import SFTConfig
from hfkit.core.errors import ConfigError
from hfkit.models.adapter_shape import fit_to_model, get_on_meta, lora_config, on_meta
from hfkit.models.adapter_support import unmatched
from hfkit.models.loading import cached_config
from hfkit.records.record import read_record
from hfkit.records.source import Source
from hfkit.rlhf.roles import load_roles
from hfkit.stages.pipeline import later_problems
from hfkit.training.memory.device import Device
from hfkit.training.memory.peak import plan_memory

CPU = Device("a machine", 10**12, 0, is_gpu=False)
ALL = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
SPELLINGS = [
    (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
    ("q_proj,v_proj", ["q_proj", "v_proj"]),
    (" q_proj, v_proj ,", ["q_proj", "v_proj"]),
    (["q_proj,v_proj"], ["q_proj", "v_proj"]),
    (r".*\.(q|v)_proj", ["q_proj", "v_proj"]),
    ([r".*\.[qv]_proj"], ["q_proj", "v_proj"]),
    ("q_proj", ["q_proj"]),
    ("self_attn.q_proj", ["q_proj"]),
    ("all-linear", ALL),
    (["all-linear"], ALL),
    (None, ALL),
]
TRAINING = [name for name, spec in STAGES.items() if spec.trains_a_model]
FUNCTIONS = {"reward_model_path": None, "reward_functions": ["reward_functions:length"]}
IN, OUT = {"down_proj": 176}, {"gate_proj": 176, "up_proj": 176, "k_proj": 32, "v_proj": 32}
"""Widths of the linear maps of planned.LLAMA, where they are not 64."""


def adapted(config) -> set[str]:
    """The names of the modules that a config's adapter has."""
    source = Source.of(config.model_name_or_path)
    model = on_meta(cached_config(config.model_name_or_path, "main"), AutoModelForCausalLM)
    model = get_on_meta(model, fit_to_model(lora_config(config, source, "CAUSAL_LM"), model))
    return {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}


@pytest.mark.parametrize(("given", "wanted"), mostly_slow(SPELLINGS, SPELLINGS[::2]), ids=str)
def test_each_spelling_adapts_the_same_modules_and_plan_counts_them(given, wanted, config_of, stage_for, tmp_path):
    config = config_of("sft", tmp_path / "out", lora_target_modules=given)
    assert adapted(config) == {*wanted}
    planned = plan_memory(stage_for("sft", use_peft=True, lora_target_modules=given), CPU).roles[0]
    assert planned.trainable == 4 * 16 * sum(IN.get(name, 64) + OUT.get(name, 64) for name in wanted)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["q_proj"], ["q_proj"]),
        (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        (["q_proj,v_proj"], ["q_proj", "v_proj"]),
        (['["q_proj", "v_proj"]'], ["q_proj", "v_proj"]),
        (["all-linear"], "all-linear"),
        ([r".*\.[qv]_proj"], r".*\.[qv]_proj"),
        (["none"], None),
    ],
)
def test_flags(words, value):
    argv = ["--output_dir", "out", "--lora_target_modules", *words]
    assert parse(SFTConfig, argv, "", "").lora_target_modules == value
    if isinstance(value, list):
        argv = ["--output_dir", "out", "--modules_to_save", *words]
        assert parse(SFTConfig, argv, "", "").modules_to_save == value


@pytest.fixture
def problems(config_of, base_dir, reward_dir, tmp_path):
    """problems(stage, **changes) -> the problems of an adapter on `base_dir`, as text."""

    def found(stage: str, **changes) -> list[str]:
        start = {"model_name_or_path": str(base_dir), **({} if "use_peft" in changes else {"use_peft": True})}
        start |= {"model_config": None, "tokenizer_name_or_path": None} if stage == "pretrain" else {}
        try:
            config_of(stage, tmp_path / "out", **start, **changes)
        except ConfigError as error:
            return [str(problem) for problem in error.problems]
        return []

    return found


@pytest.mark.parametrize("stage", mostly_slow(TRAINING, ["sft", "grpo"]))
@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        (
            {"lora_target_modules": "v_proj,q_porj"},
            "lora_target_modules: 'q_porj' -> matches no module of LlamaForCausalLM. Did you mean 'q_proj'?",
        ),
        (
            {"lora_target_modules": r"model\.layer\..*proj"},
            r"lora_target_modules: 'model\\.layer\\..*proj' -> matches no module of LlamaForCausalLM. Name some of "
            "all-linear, down_proj, embed_tokens, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj",
        ),
        (
            {"lora_target_modules": "all"},
            "lora_target_modules: 'all' -> matches no module of LlamaForCausalLM. Did you mean 'all-linear'?",
        ),
        (
            {"lora_target_modules": r"(\w+\w)+q_proj"},
            r"lora_target_modules: '(\\w+\\w)+q_proj' -> repeats a group that holds repeats or alternatives",
        ),
        ({"lora_target_modules": "(q_proj"}, "lora_target_modules: '(q_proj' -> neither module names nor a regular"),
        (
            {"modules_to_save": ["lm_haed"]},
            "modules_to_save: 'lm_haed' -> matches no module of LlamaForCausalLM. Did you mean 'lm_head'?",
        ),
        (
            {"modules_to_save": "q_proj", "lora_target_modules": "q_proj,v_proj"},
            "modules_to_save: ['q_proj'] -> a module is either trained whole or adapted: name it under one key",
        ),
        (
            {"modules_to_save": "o_proj", "lora_target_modules": "q_proj", "load_in_4bit": True},
            "modules_to_save: 'o_proj' -> is quantized by load_in_4bit and cannot be trained whole",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_loading_in_every_stage(problems, stage, changes, reported, no_weights):
    [problem] = problems(stage, **changes)
    assert problem.startswith(reported)


@pytest.mark.parametrize("key", ["use_dora", "modules_to_save"])
def test_a_key_of_an_adapter_needs_one(problems, key):
    given = {"use_dora": True, "modules_to_save": ["lm_head"]}[key]
    assert problems("sft", **{key: given}, use_peft=None, lora_r=None) == [
        f"{key}: {given!r} -> has no effect without use_peft: true"
    ]


def test_a_later_stage_of_a_pipeline_is_checked_before_its_model_exists(base_dir, tmp_path):
    first = STAGES["sft"].config_class(output_dir=str(tmp_path / "sft"), model_name_or_path=str(base_dir))
    later = STAGES["reward"].config_class(
        output_dir=str(tmp_path / "reward"),
        model_name_or_path=str(tmp_path / "sft"),
        use_peft=True,
        lora_target_modules="q_porj",
    )
    found = later_problems({"sft": first, "reward": later}, tmp_path)
    assert ("reward.lora_target_modules", "q_porj") in [(problem.key, problem.value) for problem in found]


@pytest.mark.parametrize("scorer", [None, "full"])
def test_an_adapter_on_the_head_alone_is_refused_by_ppo_before_loading(problems, scorer, reward_dir, tmp_path, request):
    """The value model has no such head, whether it starts from the policy or from a full reward model."""
    changes = dict(FUNCTIONS)
    if scorer:
        full = merge(str(reward_dir), tmp_path / "full", "float32")
        changes = {"reward_model_path": str(full)}
    request.getfixturevalue("no_weights")
    [problem] = problems("ppo", **changes, lora_target_modules=["lm_head"])
    assert problem.startswith("lora_target_modules: ['lm_head'] -> PPO's value model is a classifier without")
    assert problems("ppo", **changes, lora_target_modules=["lm_head", "1.mlp.up_proj"]) == []


NEW = {"use_dora": True, "modules_to_save": ["lm_head", "embed_tokens"], "lora_target_modules": "q_proj,v_proj"}


@pytest.mark.slow
def test_dora_with_whole_modules_is_trained_published_and_reloaded_in_every_stage(
    base_dir, run_stage, config_of, tmp_path, capsys
):
    start = {"model_name_or_path": str(base_dir), **NEW}
    sft = run_stage("sft", tmp_path / "sft", **start, learning_rate=1e-2, max_steps=2)
    saved = json.loads((sft / "adapter_config.json").read_text())
    assert (saved["use_dora"], sorted(saved["target_modules"])) == (True, ["q_proj", "v_proj"])
    weights, base = load_file(sft / "adapter_model.safetensors"), load_file(base_dir / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert not torch.equal(weights[f"base_model.model.{name}"], base.get(name, base["model.embed_tokens.weight"]))
    norms = [name for name in weights if name.endswith("lora_magnitude_vector")]
    matrix = "self_attn.q_proj.weight"
    norm = base[f"model.layers.0.{matrix}"].norm(dim=1)
    assert len(norms) == 4
    assert not torch.allclose(weights[next(name for name in norms if "layers.0.self_attn.q_proj" in name)], norm)
    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_dir), sft)
    assert torch.allclose(logits(opened), logits_at(sft), atol=1e-6)
    chat(str(sft), prompt="What does Ann like?", length=2)
    assert main(["push", str(sft), "me/tiny", "--dry_run", "--with_base", "me/base"]) == 0
    shown = capsys.readouterr().out
    assert "adapter_model.safetensors" in shown and "Traceback" not in shown
    merged = merge(str(sft), tmp_path / "merged", "float32")
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(merged)), logits(opened), atol=1e-4)
    reward = run_stage("reward", tmp_path / "reward", model_name_or_path=str(sft), max_steps=2)
    hidden = last_hidden(hfkit.load_reward(str(reward)).model)
    whole = merge(str(reward), tmp_path / "merged reward", "float32")
    assert torch.allclose(last_hidden(AutoModelForSequenceClassification.from_pretrained(whole)), hidden, atol=1e-4)
    models = {"model_name_or_path": str(sft), "reward_model_path": str(reward)}
    ppo = run_stage("ppo", tmp_path / "ppo", **models, total_episodes=4)
    assert not torch.allclose(logits_at(ppo), logits_at(sft), atol=1e-4)
    roles = load_roles(config_of("ppo", tmp_path / "roles", model_name_or_path=str(ppo), reward_model_path=str(reward)))
    assert torch.allclose(logits(roles.reference), logits_at(ppo), atol=1e-6)
    policy = dict(roles.policy.get_base_model().named_parameters())
    shared = dict(roles.value.get_base_model().named_parameters())
    name = "model.layers.0.self_attn.q_proj.base_layer.weight"
    assert policy[name].data_ptr() == shared[name].data_ptr(), "the four roles share one base"


def test_ppo_starts_a_new_adapter_with_dora_and_whole_modules(base_dir, run_stage, config_of, tmp_path):
    """The value model has no language model's head: it trains the other modules."""
    changes = {"model_name_or_path": str(base_dir), **NEW, **FUNCTIONS}
    roles = load_roles(config_of("ppo", tmp_path / "roles", **changes))
    assert torch.allclose(logits(roles.policy), logits_at(base_dir), atol=1e-5)
    assert torch.allclose(last_hidden(roles.value), last_hidden(roles.policy), atol=1e-5)
    folder = run_stage("ppo", tmp_path / "ppo", **changes)
    assert not torch.allclose(logits_at(folder), logits_at(base_dir), atol=1e-4)
    assert read_record(folder)["config"]["modules_to_save"] == NEW["modules_to_save"]


@pytest.mark.slow
def test_dora_over_4_bits(base_dir, run_stage, tmp_path):
    start = {"model_name_or_path": str(base_dir), "use_dora": True, "load_in_4bit": True, "learning_rate": 1e-2}
    sft = run_stage("sft", tmp_path / "sft", **start, max_steps=2)
    weights = load_file(sft / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in weights.items() if "lora_B" in name or "magnitude" in name)
    folder = run_stage("ppo", tmp_path / "ppo", model_name_or_path=str(sft), load_in_4bit=True, **FUNCTIONS)
    assert not torch.allclose(logits_at(folder), logits_at(sft), atol=1e-4)


@pytest.mark.parametrize("key", ["use_dora", slow("modules_to_save")])
def test_a_static_cache_over_4_bits_needs_merged_copies_which_they_have_none_of(problems, key):
    changes = {"rollout_engine": "static", "load_in_4bit": True, key: NEW[key], **FUNCTIONS}
    [problem] = problems("ppo", **changes)
    assert problem.startswith("rollout_engine: 'static' -> ")
    assert problems("ppo", **{**changes, key: None}) == []


def test_a_pad_token_beyond_the_embedding_is_refused(copy, base_dir, config_of, tmp_path, no_weights):
    folder: Path = copy(base_dir)
    edit(folder / "config.json", pad_token_id=99_999)
    with pytest.raises(ConfigError) as error:
        config_of("sft", tmp_path / "out", model_name_or_path=str(folder))
    [problem] = error.value.problems
    assert problem.key == "model_name_or_path"
    assert "pad_token_id in the config.json" in problem.remedy and problem.remedy.endswith("or remove it")


def test_names_of_experts_are_matched_as_peft_matches_them():
    """PEFT maps former names of their modules, such as w1, to parameters."""
    model = on_meta(model_of("mixture", 64).config, AutoModelForCausalLM)
    assert unmatched(model, ["w1", "q_proj", "w9"]) == ["w9"]
    assert unmatched(model, r".*\.q_proj") == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dpo", "grpo", "rloo"])
def test_lora_on_the_head_goes_on_or_is_refused_before_loading(run_stage, tmp_path, stage):
    settings = {"lora_target_modules": ["q_proj", "lm_head"], "max_steps": 1}
    first = run_stage("sft", tmp_path / "sft", **settings)
    go_on = partial(run_stage, stage, tmp_path / "out", model_name_or_path=str(first), max_steps=2, learning_rate=1e-3)
    if Version(version("trl")) >= Version("1.15"):
        with pytest.raises(ConfigError, match="does not train LoRA on the output head in this stage: use an"):
            go_on()
        return
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (first, go_on()))
    assert all((before[name] != after[name]).any() for name in after if "lm_head.lora_B" in name)
