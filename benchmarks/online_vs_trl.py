"""python benchmarks/online_vs_trl.py --name 3m [--model DIR] [--data FILE] [--pairs 3] [--updates 6]

hfkit's GRPO and RLOO compared with TRL's GRPOTrainer and RLOOTrainer, with LoRA: the same model, prompts, reward,
settings and number of responses, each run in a separate process, alternately. Both sample with `generate`; the learning
rate is so low that the length of responses does not change. Writes seconds and CPU seconds an update into
records/online_vs_trl_NAME.json.

Without `--model`, the model has 3 million random weights, prompts of 8 to 48 tokens, and responses of 24 tokens on
average. The prompts of `--data`, JSON lines with a `prompt`, are rendered by the model's chat template.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

from hfkit.core.console import quiet_libraries

quiet_libraries()

import torch
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
    PrinterCallback,
    set_seed,
)

from hfkit.core.files import write_json
from hfkit.records.environment import environment
from hfkit.rlhf import GRPOArguments, GRPOTrainer, RLOOArguments, RLOOTrainer
from hfkit.rlhf.rewards import Scorer
from hfkit.rlhf.shared_base import copy_sharing_frozen

OWN = {"grpo": (GRPOTrainer, GRPOArguments), "rloo": (RLOOTrainer, RLOOArguments)}
BARE = {"grpo": (trl.GRPOTrainer, trl.GRPOConfig), "rloo": (trl.RLOOTrainer, trl.RLOOConfig)}
SHAPE = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6}
VOCABULARY, WARM = 2048, 1
ADAPTER = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
SETTINGS = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "num_generations": 8}
SETTINGS |= {"learning_rate": 1e-7, "temperature": 1.0, "beta": 0.04, "save_strategy": "no", "report_to": "none"}
SETTINGS |= {"use_cpu": not torch.cuda.is_available(), "bf16": torch.cuda.is_available(), "logging_steps": 1}
SETTINGS |= {"gradient_checkpointing": False, "disable_tqdm": True, "disable_dropout": True, "seed": 0}


def tokenizer_of_words() -> PreTrainedTokenizerFast:
    """Words w0, w1, ..., of which one in 32 or so ends a response."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<eos>": 1} | {f"w{index}": index for index in range(2, VOCABULARY)}
    made = Tokenizer(models.WordLevel(words, unk_token="w2"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    options = {"pad_token": "<pad>", "eos_token": "<eos>", "padding_side": "left"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **options)


def policy(path: Path | None):
    """A model with an adapter; without a path, a random Llama, whose responses have 24 tokens on average."""
    torch.manual_seed(0)
    if path is not None:
        return get_peft_model(AutoModelForCausalLM.from_pretrained(path), ADAPTER)
    config = LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=None, eos_token_id=1, **SHAPE)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # every hidden state has this unit: one token in about 24 is the end
        model.get_input_embeddings().weight[:, 0] = 3.0
        model.lm_head.weight[1, 0] = 0.32
    return get_peft_model(model, ADAPTER)


def prompts(count: int, tokenizer, data: Path | None) -> list[str]:
    """Prompts of a file, or of random words."""
    if data is not None:
        opened = gzip.open(data, "rt", encoding="utf-8") if data.suffix == ".gz" else data.open(encoding="utf-8")
        with opened as lines:
            texts = [json.loads(line)["prompt"] for line in islice(lines, count)]
        chats = [[{"role": "user", "content": text}] for text in texts]
        return [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, 49, (count,), generator=generator).tolist()
    return [
        " ".join(f"w{one}" for one in torch.randint(2, VOCABULARY, (n,), generator=generator).tolist()) for n in lengths
    ]


def even_share(replies: list[str]) -> list[float]:
    """The share of characters with an even code."""
    found = [[ord(one) % 2 == 0 for one in reply] for reply in replies]
    return [sum(even) / max(len(even), 1) for even in found]


def own_reward(prompts, replies, **_) -> list[float]:
    return even_share(replies)


def bare_reward(prompts, completions, **_) -> list[float]:
    return even_share(completions)


def trainer_of(method: str, kind: str, asked: argparse.Namespace, folder: str):
    """hfkit's trainer or the bare one."""
    path, steps = asked.model, asked.updates + WARM
    model = policy(path)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left") if path else tokenizer_of_words()
    texts = prompts(4 * steps, tokenizer, asked.data)
    given = {**SETTINGS, "output_dir": folder, "max_steps": steps}
    if kind == "bare":
        bare, arguments = BARE[method]
        rows = Dataset.from_dict({"prompt": texts})
        given |= {"max_completion_length": asked.reply, "top_k": 0}
        return bare(
            model=model,
            reward_funcs=bare_reward,
            args=arguments(**given),
            train_dataset=rows,
            processing_class=tokenizer,
        )
    own, arguments = OWN[method]
    del given["disable_dropout"]
    rows = Dataset.from_dict({"prompt": texts, "input_ids": [tokenizer(text).input_ids for text in texts]})
    return own(
        model=model,
        ref_model=copy_sharing_frozen(model).requires_grad_(False).eval(),
        scorer=Scorer(tokenizer, functions={"even": own_reward}, stop_token_ids=[tokenizer.eos_token_id]),
        args=arguments(**given, response_length=asked.reply),
        train_dataset=rows,
        eval_dataset=None,
        processing_class=tokenizer,
    )


class Clock:
    """Seconds and CPU seconds of the steps after the first ones."""

    def __init__(self, trainer):
        from transformers import TrainerCallback

        class At(TrainerCallback):
            def on_step_end(inner, args, state, control, **_):
                if state.global_step == WARM:
                    self.begin = (time.perf_counter(), time.process_time())

        trainer.add_callback(At())

    def stop(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self.begin[0], "cpu_seconds": time.process_time() - self.begin[1]}


def run(method: str, kind: str, asked: argparse.Namespace) -> dict:
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(method, kind, asked, folder)
        trainer.remove_callback(PrinterCallback)
        clock = Clock(trainer)
        trainer.train()
        found = {name: value / asked.updates for name, value in clock.stop().items()}
        lengths = [log["completions/mean_length"] for log in trainer.state.log_history if "entropy" in log]
    return {**found, "mean_length": sum(lengths[WARM:]) / asked.updates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--model", type=Path, help="folder of a model")
    parser.add_argument("--data", type=Path, help="file of prompts, instead of random words")
    parser.add_argument("--reply", type=int, default=48, help="most tokens of a response")
    parser.add_argument("--methods", nargs="+", choices=[*OWN], default=[*OWN])
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--updates", type=int, default=6, help="timed updates of a run")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        method, kind = asked.one.split(":")
        return print(json.dumps(run(method, kind, asked)))
    shape = {"model": asked.model.name, "data": asked.data and asked.data.name} if asked.model else SHAPE
    record = {"benchmark": "online_vs_trl", "settings": {**SETTINGS, "response_length": asked.reply, **shape}}
    record |= {"threads": torch.get_num_threads(), "environment": environment(), "methods": {}}
    for method in asked.methods:
        runs: dict[str, list[dict]] = {"hfkit": [], "bare": []}
        for pair in range(asked.pairs):
            for kind in [*runs][:: 1 if pair % 2 == 0 else -1]:
                command = [sys.executable, *sys.argv, "--one", f"{method}:{kind}"]
                ran = subprocess.run(command, capture_output=True, text=True, check=False)
                if ran.returncode:
                    sys.exit(ran.stderr)
                runs[kind].append(json.loads(ran.stdout.splitlines()[-1]))
        ratios = {
            name: median(own[name] / bare[name] for own, bare in zip(runs["hfkit"], runs["bare"], strict=True))
            for name in ("seconds", "cpu_seconds")
        }
        record["methods"][method] = {"hfkit_by_bare": ratios, "runs": runs}
        write_json(asked.records / f"online_vs_trl_{asked.name}.json", record)
        print(method, ratios, {kind: round(found[0]["mean_length"], 1) for kind, found in runs.items()}, flush=True)


if __name__ == "__main__":
    main()
