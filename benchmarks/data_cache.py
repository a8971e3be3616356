"""python benchmarks/data_cache.py [--rows 50000]

How soon a second run of SFT on the same data trains: two processes, one after the other, with the same config and an
empty cache before the first. Of each, the seconds from its start to its first training step, imports and loading of the
model among them (`to_first_step`), and of these the seconds in which the rows are read, hashed and tokenized (`data`).
Each process has its own folder and tokenizer object. The rows are conversations of the quickstart's world: single ones
(one or two short exchanges), and four of them joined in a row. Written to benchmarks/records/data_cache.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path


def child(root: Path, folder: str, started: float) -> None:
    """One run, up to its first step; prints its times as JSON."""
    from hfkit.core.console import quiet_libraries

    quiet_libraries()
    from transformers import Trainer

    import hfkit
    from hfkit.data import splits
    from hfkit.training.run import Run

    times = {}

    class Prepared(Run):
        def __init__(self, *args):
            times["prepared"] = time.time()
            super().__init__(*args)

    def first_step(*args, **kwargs):
        times["step"] = time.time()
        data = times["prepared"] - times["read"]
        print(json.dumps({"to_first_step": times["step"] - started, "data": data}), flush=True)
        os._exit(0)

    def load_splits(*args, load=splits.load_splits):
        times["read"] = time.time()
        return load(*args)

    splits.load_splits, Trainer.training_step = load_splits, first_step
    import hfkit.training.run

    hfkit.training.run.Run = Prepared
    hfkit.sft(
        hfkit.SFTConfig(
            model_name_or_path=str(root / "base"),
            datasets=[hfkit.DatasetEntry(path=str(root / "rows.jsonl"))],
            test_split_size=500,
            output_dir=str(root / folder),
            max_length=512,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "data_cache.json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(HF_HOME=f"{folder}/home", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
        record = measure(Path(folder), asked.rows)
    asked.output.parent.mkdir(exist_ok=True)
    from hfkit.core.files import write_json

    write_json(asked.output, record)
    print(json.dumps({kind: record[kind]["ratio"] for kind in ("short", "joined")}, indent=2))


def measure(root: Path, rows: int) -> dict:
    """Writes the world, makes a small model, and times both runs."""
    from hfkit.core.console import quiet_libraries

    quiet_libraries()
    import hfkit
    from hfkit.quickstart import world
    from hfkit.records.environment import environment

    world.INSTRUCTION_COUNT = rows
    world.write_world(root / "world")
    documents = [hfkit.DatasetEntry(path=str(root / "world" / "documents.jsonl"), split="train[:2000]")]
    tokenizer = hfkit.train_tokenizer(
        hfkit.TokenizerConfig(output_dir=str(root / "tokenizer"), datasets=documents, vocab_size=1024)
    )
    shape = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    hfkit.pretrain(
        hfkit.PretrainConfig(
            output_dir=str(root / "base"),
            tokenizer_name_or_path=str(tokenizer),
            datasets=documents,
            model_config={**shape, "num_attention_heads": 2, "max_position_embeddings": 512},
            block_size=128,
            max_steps=1,
        )
    )
    lines = (root / "world" / "instructions.jsonl").read_text().splitlines()
    talks = [json.loads(line)["messages"] for line in lines]
    kinds = {"short": talks, "joined": [[*chain(*talks[start : start + 4])] for start in range(0, len(talks), 4)]}
    record = {"benchmark": "data_cache", "rows": rows, "environment": environment()}
    for kind, conversations in kinds.items():
        conversations = conversations * (rows // len(conversations))
        with (root / "rows.jsonl").open("w") as file:
            for number, (first, *others) in enumerate(conversations):
                first = {**first, "content": f"{number}. {first['content']}"}  # no row is there twice
                file.write(json.dumps({"messages": [first, *others]}) + "\n")
        record[kind] = compare(root, kind)
    return record


def compare(root: Path, kind: str) -> dict:
    """The times of two runs on the same rows, and how many times sooner the second one is."""
    runs = {}
    for name in ("first", "second"):
        command = [sys.executable, __file__, "--child", str(root), f"{kind}-{name}", str(time.time())]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        runs[name] = {key: round(value, 2) for key, value in json.loads(ran.stdout.splitlines()[-1]).items()}
        runs[name]["load_average"] = round(os.getloadavg()[0], 1)  # of the machine: others slow imports and rows alike
        print(kind, name, runs[name], flush=True)
    ratio = {key: round(runs["first"][key] / runs["second"][key], 1) for key in ("to_first_step", "data")}
    return {**runs, "ratio": ratio}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
    else:
        main()
