"""Compares a trainer of hfkit with the one that it wraps: runs alternate, on the same rows and settings.

The rows are encoded once, by hfkit. Each run is a separate process, which loads rows and model, takes one step that
is not timed, then the timed ones, and evaluates once. What is measured is written as it comes, and a run that the
record has is not run again. Shared by sft_vs_trl.py, reward_vs_trl.py, dpo_vs_trl.py and pretrain_vs_trl.py.

- `--pairs`: runs of each trainer; who goes first alternates. The ratios are those of the pairs.
- `--check`: one more run of each, of so many steps: the largest difference between the trained weights, and the peak
  memory (resident memory where the allocator gives back at once what is freed; on a GPU its own).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hfkit.core.console import quiet_libraries

quiet_libraries()

import torch
from datasets import Dataset, disable_progress_bars, load_from_disk
from flop_use import Clock, model_flop, product_flop_per_second, training_time
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, set_seed

import hfkit
from hfkit.config.trainer_fields import TrainerFields
from hfkit.core.device import prepare_device
from hfkit.core.files import read_json_mapping, write_json
from hfkit.models.tokenizers import load_stage_tokenizer
from hfkit.records.environment import environment, peak_memory_bytes, reset_peak_memory

WARM = 1  # steps before the timed ones: kernels are chosen and memory is claimed
HELD_OUT = 48
# glibc otherwise keeps what was freed, and the peak would be of what was ever needed at any place.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_MMAP_MAX_": "1000000"}
LORA = {"use_peft": True, "lora_dropout": 0.0}


@dataclass(frozen=True)
class Comparison:
    """What a script compares.

    Attributes:
        benchmark: its name and the record's.
        bare: the class of the trainer to compare with.
        config: builds the stage's config from the settings that all stages share.
        encode: (config, tokenizer) -> training rows and held-out rows, as token ids.
        load: config -> the model to train.
        trainer: (is_bare, config, model, tokenizer, training rows, held-out rows) -> the trainer.
        lengths: a row -> the tokens of each of its sequences.
    """

    benchmark: str
    bare: type[Trainer]
    config: Callable[..., TrainerFields]
    encode: Callable[..., tuple[Dataset, Dataset]]
    load: Callable
    trainer: Callable[..., Trainer]
    lengths: Callable[[dict], list[int]]


def main(comparison: Comparison) -> None:
    """Reads the command line and measures; with `--one`, which the parent process gives, one run alone."""
    script = sys.modules["__main__"]
    parser = argparse.ArgumentParser(
        description=f"{script.__doc__}\n{__doc__}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--data", required=True, help="rows of the stage, as FILE.jsonl.gz")
    parser.add_argument("--name", required=True, help="of the record: records/BENCHMARK_NAME.json")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a run")
    parser.add_argument("--check", type=int, default=20, help="steps of the runs whose weights are compared; 0: none")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max_length", type=int, default=1024, help="tokens of a row")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", help="of the base model's weights")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast")
    parser.add_argument("--load_in_4bit", action="store_true")
    parser.add_argument("--packing", action="store_true", help="rows of max_length; sequences are kept apart")
    parser.add_argument(
        "--checkpointing",
        choices=("both", "bare", "none"),
        default="both",
        help="who computes activations again, on a GPU; bare: each as by default, hfkit where a run would not fit",
    )
    parser.add_argument("--alone", action="store_true", help="hfkit's runs without the bare trainer's")
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    disable_progress_bars()
    if asked.one:
        kind, steps = asked.one.split(":")
        return print(json.dumps(run(comparison, asked, kind, int(steps))))
    with tempfile.TemporaryDirectory() as folder:
        asked.root = asked.root or Path(folder)
        measure(comparison, asked)


def settings_of(asked: argparse.Namespace, kind: str, steps: int) -> dict:
    """The settings that all stages share; the rows come in the order in which they were encoded."""
    return {
        "output_dir": str(asked.root / "out"),
        "model_name_or_path": asked.model,
        "datasets": [hfkit.DatasetEntry(path=asked.data)],
        "test_split_size": HELD_OUT,
        "max_dropped": 1.0,
        "per_device_train_batch_size": asked.batch,
        "max_steps": WARM + steps,
        "dtype": asked.dtype,
        "bf16": asked.bf16,
        "load_in_4bit": asked.load_in_4bit,
        "gradient_checkpointing": asked.device == "cuda" and asked.checkpointing in ("both", kind),
        "save_strategy": "no",
        "extra": {"train_sampling_strategy": "sequential", "use_cpu": asked.device == "cpu"},
    }


def run(comparison: Comparison, asked: argparse.Namespace, kind: str, steps: int) -> dict:
    """One run: `kind` is hfkit or bare. Its trained weights go to `root` if it takes the steps of the check."""
    config = comparison.config(asked, settings_of(asked, kind, steps))
    set_seed(config.seed)
    prepare_device(config)
    tokenizer = load_stage_tokenizer(config)
    train, test = (load_from_disk(str(asked.root / split)) for split in ("train", "test"))
    model = comparison.load(config)
    trainer = comparison.trainer(kind == "bare", config, model, tokenizer, train, test)
    trainer.remove_callback(PrinterCallback)
    reset_peak_memory()
    seconds, cpu_seconds = training_time(trainer, WARM)
    with Clock() as evaluation:
        loss = trainer.evaluate()["eval_loss"]
    peak = peak_memory_bytes()
    save_file(trained_weights(trainer), asked.root / f"{kind}.safetensors")
    lengths = [comparison.lengths(row) for row in train.select(range(asked.batch * WARM, asked.batch * (WARM + steps)))]
    lengths = [length for row in lengths for length in row]
    held_out = sum(length for row in test for length in comparison.lengths(row))
    dtype = torch.bfloat16 if asked.bf16 else trainer.model.dtype
    product, product_cpu = product_flop_per_second(trainer.args.device, dtype)
    flop = model_flop(trainer.model, lengths)
    return {
        "tokens": sum(lengths),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "tokens_per_second": sum(lengths) / seconds,
        "tokens_per_cpu_second": sum(lengths) / cpu_seconds,
        "evaluation_tokens": held_out,
        "evaluation_seconds": evaluation.seconds,
        "evaluation_cpu_seconds": evaluation.cpu_seconds,
        "evaluation_loss": loss,
        "peak_bytes": peak,
        "model_flop": flop,
        "product_flop_per_second": product,
        "flop_use": flop / seconds / product,
        "flop_use_by_cpu_seconds": flop / cpu_seconds / product_cpu,
    }


def trained_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The weights that are trained, each once, on the CPU."""
    return {name: value.detach().cpu() for name, value in trainer.model.named_parameters() if value.requires_grad}


def measure(comparison: Comparison, asked: argparse.Namespace) -> None:
    """Encodes the rows, runs what the record lacks, and writes the record after each run."""
    asked.records.mkdir(parents=True, exist_ok=True)
    path = asked.records / f"{comparison.benchmark}_{asked.name}.json"
    hidden = ("name", "model", "data", "records", "root", "one", "pairs")
    about = {
        "benchmark": comparison.benchmark,
        "model": Path(asked.model).name,
        "data": Path(asked.data).name,
        "bare": comparison.bare.__name__,
        "settings": {name: value for name, value in vars(asked).items() if name not in hidden},
        "threads": torch.get_num_threads(),
        "environment": environment(),
    }
    record = read_json_mapping(path) or {}
    if any(record.get(key, about[key]) != about[key] for key in ("model", "data", "settings")):
        sys.exit(f"{path} is of another model or other settings: choose another --name, or delete it")
    record = {"runs": {"hfkit": [], "bare": []}, **record, **about}
    steps = max(asked.steps, asked.check)
    encode(comparison, asked, (WARM + steps) * asked.batch)

    def measured(kind: str, steps: int, **variables: str) -> dict:
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if asked.device == "cpu" else {}
        command = [sys.executable, *sys.argv, "--root", str(asked.root), "--one", f"{kind}:{steps}"]
        ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **hidden, **variables})
        if ran.returncode:
            sys.exit(f"{kind} ended with status {ran.returncode} (-9: killed, often for memory)\n{ran.stderr}")
        result = json.loads(ran.stdout.splitlines()[-1])
        print(f"{kind}: {result['tokens_per_second']:,.0f} tokens/s, {result['flop_use']:.2f} of a product", flush=True)
        return result

    runs = record["runs"]
    for pair in range(asked.pairs):
        for kind in ("hfkit",) if asked.alone else ("hfkit", "bare") if pair % 2 else ("bare", "hfkit"):
            if len(runs[kind]) <= pair:
                runs[kind].append(measured(kind, asked.steps))
                write_json(path, record | summary(runs))
    record |= summary(runs)
    if asked.check and "check" not in record:
        checked = {kind: measured(kind, asked.check - WARM, **GIVES_BACK) for kind in ("bare", "hfkit")}
        record["check"] = compare(asked, checked)
    write_json(path, record)
    print(json.dumps({"check": record.get("check"), **summary(runs)}, indent=2))


def encode(comparison: Comparison, asked: argparse.Namespace, rows: int) -> None:
    """Writes `rows` training rows in random order, and the held-out rows, to `root`.

    A dataset that has fewer rows is repeated.
    """
    config = comparison.config(asked, settings_of(asked, "hfkit", 1))
    train, test = comparison.encode(config, load_stage_tokenizer(config))
    train = train.shuffle(seed=config.seed)
    train = train.select([index % len(train) for index in range(rows)])
    for name, split in {"train": train, "test": test.select(range(min(HELD_OUT, len(test))))}.items():
        split.save_to_disk(str(asked.root / name))


def compare(asked: argparse.Namespace, runs: dict[str, dict]) -> dict:
    """What the runs of the check say: the difference of their weights, and their peak memory."""
    weights = {kind: load_file(asked.root / f"{kind}.safetensors") for kind in runs}
    differences = [(value - weights["bare"][name]).abs().max() for name, value in weights["hfkit"].items()]
    return {
        "steps": asked.check,
        "largest_weight_difference": float(torch.stack(differences).max()),
        "peak_hfkit_over_bare": runs["hfkit"]["peak_bytes"] / runs["bare"]["peak_bytes"],
        "runs": runs,
    }


def summary(runs: dict[str, list[dict]]) -> dict:
    """Medians of the runs, and medians of the ratios of the pairs: above 1 is better for hfkit, except for the peak."""
    medians = {kind: {key: median(one[key] for one in of) for key in of[0]} for kind, of in runs.items() if of}
    pairs = list(zip(runs["hfkit"], runs["bare"], strict=False))
    if not pairs:
        return {"medians": medians}

    def ratio(key: str, invert: bool = False) -> float:
        ratios = [ours[key] / theirs[key] for ours, theirs in pairs]
        return median(1 / one if invert else one for one in ratios)

    names = ("tokens_per_cpu_second", "tokens_per_second", "peak_bytes")
    ratios = {name: ratio(name) for name in names}
    ratios |= {f"evaluation_{name}": ratio(f"evaluation_{name}", invert=True) for name in ("cpu_seconds", "seconds")}
    return {"medians": medians, "hfkit_over_bare": ratios}
