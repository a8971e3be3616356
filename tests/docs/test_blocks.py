"""The tests of the pages see what is wrong in a page."""

import json

import pytest

from docs.blocks import ROOT, ROWS, change_prompt, read_blocks, repeat_rows
from docs.commands import check_command, read_commands, shorten
from hfkit.core.errors import ConfigError

WRONG = [
    "hfkit sfft run.yaml",
    "hfkit sft --learning_rat 1 --model_name_or_path my-model --datasets my-instructions.jsonl",
    "hfkit sft made-later.yaml --learning_rat 1",
    "hfkit sft --config configs/quickstart/sft.yaml --max_steps many",
    "hfkit run configs/quickstart/pipeline.yaml --sft.learning_rat 1",
    "hfkit run made-later.yaml --sft.learning_rat 1",
    "hfkit evaluate my-model --agianst other",
    "hfkit push runs/mine USER/NAME --dry",
    "accelerate launch --num_processes 2 -m hfkit.cli sft made-later.yaml --learning_rat 1",
]
RIGHT = [
    "hfkit sft made-later.yaml --learning_rate 1e-4   # a comment",
    "CUDA_VISIBLE_DEVICES=0 hfkit ppo configs/quickstart/ppo.yaml --model_name_or_path my-sft --reward_model_path my-r",
    "hfkit sft --model_name_or_path my-model --datasets my-instructions.jsonl --output_dir runs/mine > log.txt",
    "hfkit run configs/quickstart/pipeline.yaml --sft.learning_rate 1e-4 --seed 1",
    "hfkit evaluate my-model --against other",
    "python scripts/sft.py --config configs/quickstart/sft.yaml --model_name_or_path my-model",
    "accelerate launch --num_processes 2 -m hfkit.cli sft made-later.yaml --learning_rate 1",
]


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_is_seen(line, folder_without_runs):
    [command] = read_commands(line)
    with pytest.raises((ConfigError, SystemExit)):
        check_command(command.hfkit_words)


@pytest.mark.parametrize("line", RIGHT)
def test_a_right_command_passes(line, folder_without_runs):
    [command] = read_commands(line)
    check_command(command.hfkit_words)


def test_commands_are_split_at_operators_and_joined_at_backslashes():
    commands = read_commands("cd x && hfkit chat m \\\n  --length 3 | head -n 1\n\nls 2> log", line=5)
    assert [(command.line, command.text) for command in commands] == [
        (5, "cd x"),
        (5, "hfkit chat m --length 3"),
        (5, "head -n 1"),
        (8, "ls"),
    ]


def test_short_flags_replace_those_of_the_page(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert shorten(["sft", "my.yaml", "--max_steps", "500", "--seed", "1"]) == [
        *("sft", "my.yaml", "--seed", "1", "--max_steps", "3")
    ]
    words = shorten(["run", "configs/quickstart/pipeline.yaml", "--sft.max_steps", "500", "--seed", "1"])
    assert words[:4] == ["run", "configs/quickstart/pipeline.yaml", "--seed", "1"]
    assert words[words.index("--sft.max_steps") + 1] == "3"


def test_blocks_have_their_titles_and_reasons(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        '# A page\n```yaml title="a.yaml"\nx: 1\n```\n\n<!-- not run: needs a GPU -->\n```bash\nhfkit x\n```\n'
        "<!-- not run -->\n\n- a list\n\n    ```python\n    x = 1\n    ```\n"
    )
    blocks = read_blocks(page)
    assert [(block.line, block.language, block.title, block.reason) for block in blocks] == [
        (3, "yaml", "a.yaml", None),
        (8, "bash", "", "needs a GPU"),
        (15, "python", "", None),
    ]
    assert blocks[2].text == "x = 1\n"


def test_jsonl_is_repeated_under_other_prompts():
    rows = [json.loads(line) for line in repeat_rows('{"prompt": "Who?", "response": "Ann"}\n').splitlines()]
    assert len(rows) == ROWS and len({row["prompt"] for row in rows}) == ROWS
    assert {row["response"] for row in rows} == {"Ann"}


def test_a_prompt_within_a_conversation_is_changed():
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}]
    assert change_prompt({"messages": turns}, 3)["messages"] == [turns[0], {"role": "user", "content": "Who? 3"}]
