"""Small stages to plan, and an 8B one without weights."""

import json
import shutil
from importlib import import_module
from pathlib import Path
from string import ascii_letters

import pytest
from conftest import ROWS as TINY_ROWS
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES
from hfkit.stages.pipeline import check_except
from hfkit.stages.read_configs import IGNORED
from hfkit.training.memory.device import Device
from hfkit.training.memory.planned_stage import plan_stage

ROOT = Path(__file__).parents[1]
CPU = Device("a machine", 10**12, 0, is_gpu=False)
LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
GPT2 = {"model_type": "gpt2", "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 256}
LLAMA_8B = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
LLAMA_8B |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192}
ONE_BY_ONE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 24, "total_episodes": 24}
LORA = {"use_peft": True, "lora_dropout": 0.0}
FUNCTIONS = {"reward_model_path": None, "reward_functions": ["reward_functions:length"]}
LONG = " ".join(row["text"] for row in TINY_ROWS["docs"])
# equal prompts would be computed once
PROMPTS = [{"prompt": LONG[: 220 - 3 * (index % 8)] + letter} for index, letter in enumerate(ascii_letters[:32])]
ROWS = {
    "pretrain": [{"text": LONG[index:]} for index in range(40)],
    # every other row is shorter than max_length, so that there is padding
    "sft": [{"prompt": f"Who is {index}?", "response": LONG[: 1900 if index % 2 else 300]} for index in range(32)],
    "reward": [{"prompt": f"Who is {index % 7}?", "chosen": LONG[:540], "rejected": LONG[:500]} for index in range(32)],
    "dpo": [{"prompt": f"Who is {index % 7}?", "chosen": LONG[:540], "rejected": LONG[:500]} for index in range(32)],
    "rankings": [
        {"prompt": f"Who is {index}?", "replies": [LONG[: 540 - 9 * n] for n in range(4)], "ranks": [1, 2, 3, 3]}
        for index in range(32)
    ],
    **dict.fromkeys(("ppo", "grpo", "rloo"), PROMPTS),
}


@pytest.fixture(scope="module")
def folder_of(tokenizer, tmp_path_factory):
    """folder_of(shape, weights=True, labels=None): a folder with a model of a shape, or with only its config."""

    def make(shape: dict, weights: bool = True, labels: int | None = None) -> str:
        folder = tmp_path_factory.mktemp("model")
        settings = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **shape}
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        if labels:
            config.num_labels = labels
        kind = AutoModelForSequenceClassification if labels else AutoModelForCausalLM
        (kind.from_config(config) if weights else config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="module")
def llama(folder_of) -> str:
    return folder_of(LLAMA)


@pytest.fixture(scope="module")
def scorer(folder_of) -> str:
    return folder_of(LLAMA, labels=1)


@pytest.fixture(scope="module")
def llama_8b(folder_of) -> str:
    """The config of an 8B Llama; plans of one folder build its shape on the meta device once."""
    return folder_of(LLAMA_8B, weights=False)


@pytest.fixture
def stage_for(tmp_path, tokenizer_dir, llama, scorer):
    """stage_for(name, form=None, **changes): a small stage to plan, on rows as long as it allows."""

    def make(name: str, form: str | None = None, **changes):
        rows = tmp_path / f"{name}.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[form or name]))
        values = {"datasets": [{"path": str(rows)}], "per_device_train_batch_size": 4, "max_dropped": 1.0}
        if name == "pretrain":
            values |= {"model_config": LLAMA, "tokenizer_name_or_path": str(tokenizer_dir), "block_size": 128}
        else:
            values["model_name_or_path"] = llama
        if name == "ppo":
            values |= {"reward_model_path": scorer, "total_episodes": 8, "gradient_accumulation_steps": 2}
            values |= {"num_ppo_epochs": 2, "response_length": 32, "max_prompt_length": 64}
        elif name in ("grpo", "rloo"):
            values |= {"reward_model_path": scorer, "gradient_accumulation_steps": 2, "num_generations": 4}
            values |= {"max_steps": 2, "save_strategy": "no", "response_length": 32, "max_prompt_length": 64}
        else:
            values |= {"max_steps": 3, "save_strategy": "no"}
        if name in ("sft", "reward", "dpo"):
            values["max_length"] = 160
        values |= changes
        if values.get("model_name_or_path"):
            values.pop("model_config", None)
        return plan_stage(
            name,
            load_config(STAGES[name].config_class, values, check_except([], IGNORED), output_dir=str(tmp_path / "out")),
            {},
        )

    return make


def plan_8b(llama_8b, tmp_path, device=CPU, **changes):
    """Return the plan of PPO on an 8B Llama, LoRA on 4 bits, with 512 + 512 tokens; there are no weights."""
    policy, reward = llama_8b, Path(f"{llama_8b}-reward")
    if not reward.exists():
        shutil.copytree(policy, reward)
        adapter = {"base_model_name_or_path": policy, "task_type": "SEQ_CLS", "peft_type": "LORA", "r": 16}
        (reward / "adapter_config.json").write_text(json.dumps({**adapter, "target_modules": "all-linear"}))
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "prompts.jsonl").write_text(json.dumps(ROWS["ppo"][0]) + "\n")
    values = {"model_name_or_path": policy, "reward_model_path": str(reward), "use_peft": True, "load_in_4bit": True}
    values |= {"datasets": [{"path": str(tmp_path / "prompts.jsonl")}], "max_prompt_length": 512}
    values |= {"response_length": 512, "per_device_train_batch_size": 1, "bf16": True, "gradient_checkpointing": True}
    config = load_config(
        STAGES["ppo"].config_class, {**values, **changes}, check_except([], IGNORED), output_dir=str(tmp_path / "out")
    )
    return plan_stage("ppo", config, {}, device)


def run(stage) -> None:
    import_module(stage.spec.module).main(stage.config)
