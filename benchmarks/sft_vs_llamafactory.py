"""python benchmarks/sft_vs_llamafactory.py --llamafactory PYTHON --model DIR --data ROWS.jsonl.gz --name 135m

hfkit compared with LLaMA-Factory: SFT with LoRA on the CPU, from one config. `PYTHON` is the interpreter of an
environment that has LLaMA-Factory. The config of LLaMA-Factory is translated with `hfkit init --from`, and each tool
trains with its own config: in turns, each run in a new process, on the same rows in the same order, from the same
adapter. The chat template of the model is replaced by one without a line break after a turn, which only LLaMA-Factory
would train.

LLaMA-Factory recomputes activations by default, so it also runs with `disable_gradient_checkpointing: true`. What is
measured of each run: wall seconds and CPU seconds of the steps after the first one, CPU seconds of the whole command,
peak memory, and the loss of each step. The trained weights of the first runs are compared.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

WARM = 1  # steps before the timed ones: kernels are chosen and memory is claimed
KINDS = {
    "hfkit": {},
    "llamafactory": {},
    "llamafactory, activations kept": {"disable_gradient_checkpointing": True},
}
"""The runs that are compared -> what their config of LLaMA-Factory has in addition."""
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COLUMNS = {"prompt": "prompt", "response": "response"}


def main() -> None:
    """Reads the command line and measures; with `--one`, which the parent process gives, one run alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llamafactory", required=True, help="Python of an environment that has LLaMA-Factory")
    parser.add_argument("--model", required=True, help="folder of a model whose vocabulary has <|im_end|>")
    parser.add_argument("--data", required=True, help="rows with prompt and response, as FILE.jsonl.gz")
    parser.add_argument("--name", required=True, help="of the record: records/sft_vs_llamafactory_NAME.json")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind; who goes first changes")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a run")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max_length", type=int, default=1024, help="tokens of a row")
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(asked, Path(folder))


def run_one(kind: str, config: str, result: Path) -> None:
    """Trains one config in this process, with hfkit or with LLaMA-Factory, and writes what was measured."""
    from transformers import TrainerCallback, trainer

    class Timed(TrainerCallback):
        """Times the steps after the first ones, and reads the losses at the end."""

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == WARM:
                self.started = time.perf_counter(), time.process_time()

        def on_train_end(self, args, state, control, **kwargs):
            ended = time.perf_counter(), time.process_time()
            seconds, cpu_seconds = (end - start for end, start in zip(ended, self.started, strict=True))
            peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
            measured = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": int(peak.split()[1]) * 1024}
            losses = [log["loss"] for log in state.log_history if "loss" in log]
            result.write_text(json.dumps({**measured, "losses": losses, "versions": versions()}))

    trainer.DEFAULT_CALLBACKS.append(Timed)  # every trainer of Transformers has these
    if kind == "hfkit":
        from hfkit.cli import main

        sys.exit(main(["sft", config]))
    from llamafactory.train.tuner import run_exp
    from omegaconf import OmegaConf

    run_exp(OmegaConf.to_container(OmegaConf.load(config)))


def versions() -> dict[str, str]:
    """The versions of what trains, in this environment."""
    from importlib.metadata import distributions

    names = {"hfkit", "llamafactory", "torch", "transformers", "trl", "peft", "accelerate", "datasets"}
    return {one.name: one.version for one in distributions() if one.name in names}


def prepare(asked: argparse.Namespace, root: Path) -> dict[str, Path]:
    """Writes model, adapter, rows and configs to `root`; returns the config of each kind."""
    import torch
    import yaml
    from datasets import disable_progress_bars, load_dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hfkit.commands.init.translate import write_translated

    disable_progress_bars()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    tokenizer.chat_template = TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    for one in (model, tokenizer):
        one.save_pretrained(root / "model")
    model = AutoModelForCausalLM.from_pretrained(root / "model")
    adapter = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
    get_peft_model(model, adapter).save_pretrained(root / "adapter")
    tokenizer.save_pretrained(root / "adapter")
    rows = load_dataset("json", data_files=asked.data, split="train").shuffle(seed=0)
    rows.select(range(asked.batch * (WARM + asked.steps))).select_columns([*COLUMNS]).to_json(root / "rows.jsonl")
    described = {"mine": {"file_name": "rows.jsonl", "columns": COLUMNS}}
    (root / "dataset_info.json").write_text(json.dumps(described))
    settings = {
        "model_name_or_path": str(root / "model"),
        "adapter_name_or_path": str(root / "adapter"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "dataset": "mine",
        "dataset_dir": str(root),
        "cutoff_len": asked.max_length,
        "per_device_train_batch_size": asked.batch,
        "learning_rate": 1e-4,
        "num_train_epochs": 1.0,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "disable_shuffling": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }
    configs = {}
    for kind, more in KINDS.items():
        configs[kind] = root / f"{kind}.yaml"
        text = yaml.safe_dump({**settings, **more, "output_dir": str(root / kind)}, sort_keys=False)
        configs[kind].write_text(text)
    write_translated(str(configs["hfkit"]), None, str(root / "translated"))
    configs["hfkit"] = root / "translated" / "sft.yaml"
    return configs


def real_tokens(config: Path, batch: int) -> int:
    """The tokens of the timed steps, without padding, as hfkit encodes the rows."""
    import yaml

    from hfkit.config.parsing import load_config
    from hfkit.config.stages import SFTConfig
    from hfkit.data.forms import INSTRUCTIONS, encode_instructions
    from hfkit.data.splits import load_splits
    from hfkit.models.tokenizers import load_stage_tokenizer

    settings = load_config(SFTConfig, yaml.safe_load(config.read_text()))
    rows, _, stats = load_splits(settings, INSTRUCTIONS)
    lengths = encode_instructions(rows, load_stage_tokenizer(settings), stats["train"], settings)["length"]
    return sum(lengths[batch * WARM :])


def measure(asked: argparse.Namespace, root: Path) -> None:
    """Runs what the record lacks, and writes the record after each run."""
    from hfkit.core.files import read_json_mapping, write_json
    from hfkit.records.environment import environment

    asked.records.mkdir(parents=True, exist_ok=True)
    path = asked.records / f"sft_vs_llamafactory_{asked.name}.json"
    settings = {name: getattr(asked, name) for name in ("steps", "batch", "max_length")}
    about = {"model": Path(asked.model).name, "data": Path(asked.data).name, "settings": settings}
    record = read_json_mapping(path) or {
        "benchmark": "sft_vs_llamafactory",
        **about,
        "runs": {kind: [] for kind in KINDS},
    }
    if any(record[key] != about[key] for key in about):
        sys.exit(f"{path} is of another model or other settings: choose another --name, or delete it")
    configs = prepare(asked, root)
    record |= {"environment": environment(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    record["tokens"] = real_tokens(configs["hfkit"], asked.batch)
    kinds = [*KINDS]
    for turn in range(asked.pairs):
        for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
            if len(record["runs"][kind]) <= turn:
                python = sys.executable if kind == "hfkit" else asked.llamafactory
                record["runs"][kind].append(timed_run(python, kind, configs[kind], root))
                write_json(path, record | summary(record, root))
    print(json.dumps(summary(record, root), indent=2))


def timed_run(python: str, kind: str, config: Path, root: Path) -> dict:
    """Runs one config in a new process; returns what was measured."""
    config = renamed_run(kind, config, root)
    result, before = root / "result.json", resource.getrusage(resource.RUSAGE_CHILDREN)
    result.unlink(missing_ok=True)
    command = [python, __file__, "--one", kind, str(config), str(result)]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    if ran.returncode or not result.is_file():
        sys.exit(f"{kind} ended with status {ran.returncode}\n{(ran.stdout + ran.stderr)[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    measured = {**json.loads(result.read_text()), "command_cpu_seconds": whole}
    print(f"{kind}: {measured['cpu_seconds']:.1f} CPU s, {measured['seconds']:.1f} s", flush=True)
    return measured


def renamed_run(kind: str, config: Path, root: Path) -> Path:
    """Returns a copy of a config with an output folder that does not exist: neither tool overwrites a run."""
    number = next(one for one in range(10**6) if not (root / f"{kind}-{one}").exists())
    lines = [line for line in config.read_text().splitlines() if not line.startswith("output_dir:")]
    copy = root / f"{kind}-run.yaml"
    copy.write_text("\n".join([*lines, f"output_dir: {root / f'{kind}-{number}'}"]))
    return copy


def summary(record: dict, root: Path) -> dict:
    """Medians, the ratios of hfkit to the others in each turn, and how much losses and weights differ."""
    runs = {kind: of for kind, of in record["runs"].items() if of}
    keys = ("seconds", "cpu_seconds", "peak_bytes", "command_cpu_seconds")
    medians = {kind: {key: median(one[key] for one in of) for key in keys} for kind, of in runs.items()}
    for one in medians.values():
        one["tokens_per_cpu_second"] = record["tokens"] / one["cpu_seconds"]
        one["tokens_per_second"] = record["tokens"] / one["seconds"]
    found = {"medians": medians}
    for kind, theirs in runs.items():
        pairs = list(zip(runs.get("hfkit", []), theirs, strict=False))
        if kind != "hfkit" and pairs:
            found[f"hfkit against {kind}"] = {
                "tokens_per_cpu_second": median(other["cpu_seconds"] / ours["cpu_seconds"] for ours, other in pairs),
                "tokens_per_second": median(other["seconds"] / ours["seconds"] for ours, other in pairs),
                "peak_bytes": median(ours["peak_bytes"] / other["peak_bytes"] for ours, other in pairs),
                "command_cpu_seconds": median(
                    ours["command_cpu_seconds"] / other["command_cpu_seconds"] for ours, other in pairs
                ),
                "largest_loss_difference": max(map(loss_difference, pairs)),
            }
    return found | weight_differences(root)


def loss_difference(pair: tuple[dict, dict]) -> float:
    """The largest difference between the losses of two runs at the same step."""
    losses = zip(*(one["losses"] for one in pair), strict=True)
    return max(abs(ours - theirs) for ours, theirs in losses)


def weight_differences(root: Path) -> dict:
    """The largest difference of the trained weights, and the largest change that training made."""
    from safetensors.torch import load_file

    folders = {"start": root / "adapter", "hfkit": root / "hfkit-0", "llamafactory": root / "llamafactory-0"}
    files = {name: folder / "adapter_model.safetensors" for name, folder in folders.items()}
    if not all(file.is_file() for file in files.values()):
        return {}
    start, ours, theirs = (load_file(file) for file in files.values())
    return {
        "largest_weight_difference": max(float((ours[name] - theirs[name]).abs().max()) for name in start),
        "largest_weight_change": max(float((ours[name] - start[name]).abs().max()) for name in start),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        main()
