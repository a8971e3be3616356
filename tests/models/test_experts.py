"""Mixtures of experts: LoRA on experts in all stages, and the router loss of SFT."""

from itertools import product

import pytest
import torch
import transformers
from model_outputs import IDS, last_hidden, logits_at
from packaging.version import Version
from peft import LoraConfig, PeftModel, get_peft_model
from quick import mostly_slow
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import hfkit
from hfkit.commands.merge import merge
from hfkit.core.errors import ConfigError
from hfkit.records.record import read_record

STILL = {"learning_rate": 1e-9, "max_steps": 1, "lora_r": None}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MODELS = {
    "qwen3_moe": {**EXPERTS, "decoder_sparse_step": 1, "head_dim": 16},
    "gpt_oss": {**EXPERTS, "head_dim": 16},
    "glm4_moe": {**EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "head_dim": 16},
    "granitemoe": EXPERTS,
    # dense models of architectures that have mixtures too
    "granitemoehybrid": {"layer_types": ["attention", "attention"], "num_local_experts": 0, "mamba_n_heads": 4},
    "doge": {"is_moe": False},
}
WITHOUT_ROUTER_LOSS = ("glm4_moe", "granitemoehybrid", "doge")
if Version(transformers.__version__) < Version("5.23"):
    del MODELS["granitemoe"]  # 5.17 does not return its router logits


@pytest.fixture
def mixture(tokenizer, tmp_path):
    """mixture(model_type) -> a tiny random mixture of experts."""

    def make(model_type: str) -> str:
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        shape |= {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 256}
        shape |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        config = AutoConfig.for_model(model_type, **shape, **MODELS[model_type])
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mixture")
        tokenizer.save_pretrained(tmp_path / "mixture")
        return str(tmp_path / "mixture")

    return make


@pytest.mark.parametrize("model_type", mostly_slow(["qwen3_moe", "gpt_oss"], []))
def test_lora_on_experts_goes_through_the_chain(model_type, mixture, run_stage, tmp_path, capsys):
    sft = run_stage("sft", tmp_path / "sft", model_name_or_path=mixture(model_type), learning_rate=1e-2)
    says = (
        "lora_dropout: set to 0, since LoRA on the experts of a mixture supports no dropout" in capsys.readouterr().out
    )
    assert says == (model_type == "qwen3_moe")  # peft's all-linear does not match the experts of gpt-oss
    wanted = logits_at(sft)
    again = run_stage("sft", tmp_path / "again", model_name_or_path=str(sft), **STILL)
    assert torch.allclose(logits_at(again), wanted, atol=1e-5)
    reward = run_stage("reward", tmp_path / "reward", model_name_or_path=str(sft), **STILL)
    hidden = last_hidden(hfkit.load_policy(str(sft))[0])
    assert torch.allclose(last_hidden(hfkit.load_reward(str(reward)).model), hidden, atol=1e-5)
    models = {"model_name_or_path": str(sft), "reward_model_path": str(reward)}
    ppo = run_stage("ppo", tmp_path / "ppo", **models, learning_rate=1e-9)
    assert torch.allclose(logits_at(ppo), wanted, atol=1e-5)
    assert torch.allclose(logits_at(merge(str(ppo), tmp_path / "merged", "float32")), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "use_peft"),
    mostly_slow(
        product(MODELS, (True, None)),
        [("qwen3_moe", True)],
    ),
)
def test_sft_trains_with_the_router_loss_that_a_model_has(model_type, use_peft, mixture, run_stage, tmp_path):
    changes = {"lora_target_modules": ["q_proj"]} if use_peft else {"lora_r": None}
    folder = run_stage("sft", tmp_path / "sft", model_name_or_path=mixture(model_type), use_peft=use_peft, **changes)
    lines = (folder / "metrics.jsonl").read_text()
    assert ("aux_loss" in lines) == (model_type not in WITHOUT_ROUTER_LOSS)
    assert read_record(folder)["status"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dpo", "grpo", "rloo"])
def test_other_stages_train_a_dense_model_of_an_architecture_with_mixtures(
    stage, mixture, reward_dir, run_stage, tmp_path
):
    folder = run_stage(stage, tmp_path / stage, model_name_or_path=mixture("granitemoehybrid"), max_steps=1)
    assert read_record(folder)["status"] == "done"


@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo", "rloo"])
def test_a_router_loss_that_a_model_lacks_is_refused_before_loading(
    stage, mixture, base_dir, config_of, tmp_path, reward_dir
):
    for path, name in ((mixture("glm4_moe"), "Glm4Moe"), (str(base_dir), "Llama")):
        settings = {"model_name_or_path": path, "router_aux_loss_coef": 0.01}
        with pytest.raises(ConfigError, match=f"router_aux_loss_coef: 0.01 -> {name}ForCausalLM has no router loss"):
            config_of(stage, tmp_path / stage, **settings)


def test_the_record_has_the_dropout_that_experts_were_trained_with(mixture, run_stage, tmp_path):
    folder = run_stage("sft", tmp_path / "sft", model_name_or_path=mixture("qwen3_moe"), lora_dropout=0.1)
    assert read_record(folder)["config"]["lora_dropout"] == 0
    assert LoraConfig.from_pretrained(folder).lora_dropout == 0


@pytest.mark.slow
def test_target_parameters_of_gpt_oss_go_through_the_chain(mixture, run_stage, tmp_path):
    base = mixture("gpt_oss")
    shape = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
    model = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, **shape))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.05
    model.save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "theirs")
    start = {"model_name_or_path": str(tmp_path / "theirs")}
    wanted = logits_at(tmp_path / "theirs")
    assert not torch.allclose(wanted, logits_at(base), atol=1e-3)
    assert torch.allclose(logits_at(run_stage("sft", tmp_path / "sft", **start, **STILL)), wanted, atol=1e-5)
    reward = run_stage("reward", tmp_path / "reward", **start, **STILL)
    ppo = run_stage("ppo", tmp_path / "ppo", **start, reward_model_path=str(reward), learning_rate=1e-9)
    assert torch.allclose(logits_at(ppo), wanted, atol=1e-5)
    merged = merge(str(ppo), tmp_path / "merged", "float32")
    with torch.no_grad():
        assert torch.allclose(AutoModelForCausalLM.from_pretrained(merged)(IDS).logits, wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_experts_with_a_4_bit_base_go_through_the_chain_and_merge(model_type, mixture, run_stage, tmp_path):
    """bitsandbytes quantizes linear layers, but not the tensors of experts."""
    bits = {"load_in_4bit": True}
    sft = run_stage("sft", tmp_path / "sft", model_name_or_path=mixture(model_type), learning_rate=1e-2, **bits)
    wanted = logits_at(sft)
    reward = run_stage("reward", tmp_path / "reward", model_name_or_path=str(sft), **STILL, **bits)
    models = {"model_name_or_path": str(sft), "reward_model_path": str(reward)}
    ppo = run_stage("ppo", tmp_path / "ppo", **models, learning_rate=1e-9, **bits)
    assert torch.allclose(logits_at(ppo), wanted, atol=1e-5)
    merged = merge(str(ppo), tmp_path / "merged", "float32")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "mixture"), ppo)
    with torch.no_grad():
        assert torch.allclose(AutoModelForCausalLM.from_pretrained(merged)(IDS).logits, plain(IDS).logits, atol=1e-5)
