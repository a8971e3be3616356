"""PPO on eight prompts with fixed responses and scores, with tiny models with large random weights, in float64."""

import copy

import torch
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from hfkit.rlhf.arguments import PPOArguments
from hfkit.rlhf.rewards import Scorer
from hfkit.rlhf.trainer import PPOTrainer

SHAPES = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    # with its own dropout of 0.1, a number on the layers
    "opt": {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    "llama": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
}
EOS = 0
LENGTHS = [1, 5, 3, 9, 2, 7, 4, 6]
# Responses that end at once, in the middle, or not at all.
REPLIES = [[EOS], [7, 9, EOS], [11, 12, 13, 14, 15], [21, EOS], [EOS], [31, 32, 33, 34, EOS], [41, 42, 43, 44, 45], [5]]
SCORES = [1.5, -0.5, 0.25, 2.0, -1.0, 0.75, -2.0, 0.1]
SETTINGS = {"temperature": 0.7, "kl_coef": 0.2, "gamma": 0.97, "lam": 0.9, "vf_coef": 0.3, "cliprange": 0.05}
SETTINGS |= {
    "cliprange_value": 0.02,
    "kl_estimator": "k1",
    "entropy_coef": 0.0,
    "ptx_coef": 0.0,
    "whiten_rewards": False,
}
DEFAULTS = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1e9}
DEFAULTS |= {"gradient_checkpointing": False, "bf16": False}
PTX = [
    {"input_ids": [1, 20, 21, 22, 0], "labels": [-100, -100, 21, 22, 0]},
    {"input_ids": [30, 31, 0], "labels": [30, 31, 0]},
    {"input_ids": [1, 50, 51, 52, 53, 54, 0], "labels": [-100, -100, -100, 52, 53, 54, 0]},
    {"input_ids": [60, 61], "labels": [-100, 61]},
]


def models(kind: str, lora: bool, **shape) -> list:
    """Return policy, reference and value model with weights so large that their predictions differ."""
    made = []
    for seed, head in enumerate([AutoModelForCausalLM] * 2 + [AutoModelForSequenceClassification]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(kind, vocab_size=400, num_labels=1, pad_token_id=2, **SHAPES[kind] | shape)
        model = head.from_config(config)
        if lora and seed != 1:
            task = TaskType.CAUSAL_LM if head is AutoModelForCausalLM else TaskType.SEQ_CLS
            model = get_peft_model(model, LoraConfig(r=2, task_type=task, target_modules="all-linear"))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 or "lora_" in name:
                    weight.normal_(std=0.2)
        made.append(model.double().eval())
    return made


def small_trainer(tokenizer, folder, parts: list, ptx: list[dict] = PTX, peft_config=None, **changes) -> PPOTrainer:
    """Return a trainer of policy, reference and value model; `folder` is its output folder."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 400, (length,), generator=generator).tolist() for length in LENGTHS]
    rows = [{"prompt": "", "input_ids": ids, "score": score} for ids, score in zip(prompts, SCORES, strict=True)]
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    settings = SETTINGS | DEFAULTS | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4} | changes
    args = PPOArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    policy, reference, value = parts
    scorer = Scorer(left, functions={"given": lambda prompts, replies, score: score})
    data, texts = Dataset.from_list(rows), Dataset.from_list(ptx) if args.ptx_coef else None
    options = {"scorer": scorer, "ptx_rows": texts, "peft_config": peft_config}
    return PPOTrainer(args, left, policy, reference, None, data, value, **options)


def trained(tokenizer, folder, **changes) -> PPOTrainer:
    """Return a trainer after three updates of LoRA on a float32 Llama; it samples its own responses."""
    parts = [model.float() for model in models("llama", lora=True)]
    settings = {"max_steps": 3, "response_length": 5, "num_ppo_epochs": 2, "num_mini_batches": 2} | changes
    trainer = small_trainer(tokenizer, folder, parts, **settings)
    trainer.train()
    return trainer
