"""python benchmarks/ppo_memory.py --model HuggingFaceTB/SmolLM2-135M-Instruct [--updates 2]

Peak memory of PPO with LoRA over a 4-bit base: hfkit's stage, whose four roles share one base, against trl
1.12's PPOTrainer (trl 1.13 and later have none) with a separate model for each role, on the same prompts and batches.
Each runs in a separate process. Writes benchmarks/records/ppo_memory.json: bytes at the peak, of which before any
model was loaded, and ratios.

`trl`: policy in 4 bits under LoRA, the reference a second 4-bit model under the SFT adapter, reward and value models
in float32, the value trained in full. `trl, 4-bit critic`: reward and value in 4 bits as well, as trl's own script
loads them; of such a value model only embeddings, norms and head are trained. Gradient checkpointing is on in both, as
it is by default in trl, whose loop does not apply it; `hfkit, no checkpointing` is without.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from hfkit.core.console import quiet_libraries

quiet_libraries()

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    set_seed,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

import hfkit
from hfkit.core.files import write_json
from hfkit.data.chat_template import encode_prompt
from hfkit.models.quantization import quantization_of
from hfkit.models.tokenizers import load_tokenizer
from hfkit.records.environment import environment, peak_memory_bytes

VARIANTS = ("hfkit", "hfkit, no checkpointing", "trl", "trl, 4-bit critic")
WORDS = "the a river stone bird light winter garden road letter night old small green quiet".split()
BATCH = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_mini_batches": 1}
PPO = {**BATCH, "response_length": 48, "num_ppo_epochs": 1, "learning_rate": 1e-5, "temperature": 0.7, "kl_coef": 0.05}
ADAPTER = {"use_peft": True, "load_in_4bit": True}


def rows(count: int) -> dict[str, list[dict]]:
    """Prompts, instructions and pairs of plain words: the memory does not depend on what they say."""
    prompts = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 33)) for i in range(1, count + 1)]
    return {
        "prompts": [{"prompt": prompt} for prompt in prompts],
        "turns": [{"prompt": prompt, "response": "so it is"} for prompt in prompts],
        "pairs": [{"prompt": prompt, "chosen": "so it is", "rejected": "no"} for prompt in prompts],
    }


def prepare(root: Path, model: str, count: int) -> None:
    """An SFT adapter and a reward adapter on the model, of two steps each."""
    for name, content in rows(count).items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    short = {"max_steps": 2, "max_length": 128, "per_device_train_batch_size": 2, "save_strategy": "no", **ADAPTER}
    hfkit.sft(
        hfkit.SFTConfig(output_dir=str(root / "sft"), model_name_or_path=model, datasets=entry(root, "turns"), **short)
    )
    hfkit.reward(
        hfkit.RewardConfig(
            output_dir=str(root / "reward"),
            model_name_or_path=str(root / "sft"),
            datasets=entry(root, "pairs"),
            **short,
        )
    )


def entry(root: Path, name: str) -> list[hfkit.DatasetEntry]:
    return [hfkit.DatasetEntry(path=str(root / f"{name}.jsonl"))]


def ours(root: Path, episodes: int, checkpointing: bool) -> hfkit.PPOConfig:
    """The stage's config."""
    return hfkit.PPOConfig(
        output_dir=str(root / f"ppo-{checkpointing}"),
        gradient_checkpointing=checkpointing,
        model_name_or_path=str(root / "sft"),
        reward_model_path=str(root / "reward"),
        datasets=entry(root, "prompts"),
        total_episodes=episodes,
        **PPO,
        **ADAPTER,
    )


def bare(root: Path, model: str, episodes: int, critic_in_4bit: bool) -> None:
    """trl's PPOTrainer as its documentation has it."""
    config = ours(root, episodes, checkpointing=True)
    tokenizer = load_tokenizer(str(root / "sft"))
    tokenizer.padding_side = "left"
    quantization = quantization_of(vars(config))
    four_bits = {"quantization_config": quantization, "device_map": {"": "cpu"}, "dtype": torch.float32}
    if torch.cuda.is_available():
        four_bits["device_map"] = {"": 0}

    def policy(trainable: bool) -> PeftModel:
        base = AutoModelForCausalLM.from_pretrained(model, **four_bits)
        return PeftModel.from_pretrained(base, str(root / "sft"), is_trainable=trainable)

    def critic():
        options = four_bits if critic_in_4bit else {"dtype": torch.float32}
        loaded = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, **options)
        loaded.config.pad_token_id = tokenizer.pad_token_id
        return loaded

    prompts = [{"input_ids": encode_prompt(tokenizer, row["prompt"])} for row in rows(episodes)["prompts"]]
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=str(root / "trl"),
            total_episodes=episodes,
            num_sample_generations=0,
            save_strategy="no",
            report_to="none",
            gradient_checkpointing=True,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            **PPO,
        ),
        processing_class=tokenizer,
        model=policy(trainable=True),
        ref_model=policy(trainable=False),
        reward_model=critic(),
        value_model=critic(),
        train_dataset=Dataset.from_list(prompts),
        eval_dataset=Dataset.from_list(prompts[:1]),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()


def measure(variant: str, root: Path, model: str, episodes: int) -> None:
    """Runs one variant; prints its figures as the last line."""
    set_seed(0)
    before = peak_memory_bytes()
    if variant.startswith("hfkit"):
        hfkit.ppo(ours(root, episodes, checkpointing=variant == "hfkit"))
    else:
        bare(root, model, episodes, critic_in_4bit="4-bit critic" in variant)
    print(json.dumps({"peak_bytes": peak_memory_bytes(), "before_models_bytes": before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub id or folder")
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "ppo_memory.json")
    parser.add_argument("--variant", choices=VARIANTS, help="run this one alone, on what --root holds")
    parser.add_argument("--root", type=Path)
    asked = parser.parse_args()
    episodes = asked.updates * BATCH["per_device_train_batch_size"] * BATCH["gradient_accumulation_steps"]
    if asked.variant:
        return measure(asked.variant, asked.root, asked.model, episodes)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), asked.model, episodes)
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--model", asked.model, "--updates", str(asked.updates)]
            ran = subprocess.run([*command, "--root", folder, "--variant", variant], capture_output=True, text=True)
            if ran.returncode:
                sys.exit(ran.stderr)
            figures[variant] = json.loads(ran.stdout.splitlines()[-1])
            print(f"{variant}: {figures[variant]['peak_bytes'] / 1e9:.2f} GB", flush=True)
    ratios = {name: figures["hfkit"]["peak_bytes"] / figures[name]["peak_bytes"] for name in VARIANTS[1:]}
    settings = {"ppo": PPO, "adapter": ADAPTER, "prompt_tokens": 32, "updates": asked.updates}
    write_json(
        asked.output,
        {
            "benchmark": "ppo_memory",
            "model": Path(asked.model).name,
            "settings": settings,
            "environment": environment(),
            "figures": figures,
            "ratio_to": ratios,
        },
    )
    print(json.dumps(ratios, indent=2))


if __name__ == "__main__":
    main()
