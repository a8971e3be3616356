"""Runs `hfkit data check` and `preview` on rows."""

import pytest
import yaml
from conftest import write_rows

from hfkit import cli

TURN = {"prompt": "What does Ann like?", "response": "Ann likes red."}
PAIR = {"prompt": "What does Ann like?", "chosen": "Ann likes red.", "rejected": "red"}
LONG = "red and blue and green and pink " * 20
ENDED = {**TURN, "response": "red<|endoftext|>"}


@pytest.fixture
def data_verb(tmp_path, tokenizer_dir, base_dir, capsys):
    """data_verb(command, stage, rows, *flags, **config) -> exit status, output and errors."""

    def run(command: str, stage: str, rows: list[dict], *flags: str, **config) -> tuple[int, str, str]:
        values = {"datasets": [{"path": write_rows(tmp_path / "rows.jsonl", rows)}]}
        values |= {
            "output_dir": str(tmp_path / "out"),
            **({"max_length": 64} if stage in ("sft", "reward", "dpo") else {}),
        }
        values |= {"max_prompt_length": 64} if stage == "ppo" else {}
        start = "tokenizer_name_or_path" if stage == "pretrain" else "model_name_or_path"
        values |= {} if stage == "tokenizer" else {start: str(tokenizer_dir if stage == "pretrain" else base_dir)}
        values |= {"model_config": {"model_type": "llama"}} if stage == "pretrain" else {}
        (tmp_path / f"{stage}.yaml").write_text(yaml.safe_dump({**values, **config}))
        status = cli.main(["data", command, str(tmp_path / f"{stage}.yaml"), *flags])
        assert not (tmp_path / "out").exists()
        return status, *capsys.readouterr()

    return run


def different(row: dict, count: int = 30) -> list[dict]:
    """The row with a number in each text, so that none is there twice."""
    return [{key: f"{text} {number}" for key, text in row.items()} for number in range(count)]
