"""Configs of axolotl train as axolotl 0.19 does: prompts, responses and settings as it made them."""

import json

import pytest
import yaml
from foreign_fixtures import values
from jinja2 import Environment
from quick import mostly_slow

from hfkit.cli import main

WITH_INPUT = {"instruction": "Fix the grammar.", "input": "He want to go.", "output": "He wants to go."}
WITHOUT = {"instruction": "Greet me.\n\nBriefly.", "input": "", "output": "Hello."}
PREAMBLES = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
)
OWN_TYPE = {
    **{
        "field_instruction": "instruction",
        "field_input": "input",
        "field_output": "output",
        "system_prompt": "Be {brief}.",
    },
    **{"format": "[INST] {instruction} {input} [/INST]", "no_input_format": "[{{INST}}] {instruction}\n"},
    "system_format": "<<{system}>>",
}
PROMPTS = [
    (
        "alpaca",
        f"{PREAMBLES[0]}\n\n### Instruction:\nFix the grammar.\n\n### Input:\nHe want to go.\n\n### Response:\n",
        f"{PREAMBLES[1]}\n\n### Instruction:\nGreet me.\n\nBriefly.\n\n### Response:\n",
    ),
    (
        "alpaca:chat",
        f"SYSTEM: {PREAMBLES[0]}\nUSER: Fix the grammar.\nHe want to go.\nASSISTANT:",
        f"SYSTEM: {PREAMBLES[1]}\nUSER: Greet me.\n\nBriefly.\nASSISTANT:",
    ),
    (
        OWN_TYPE,
        "<<Be {brief}.>>[INST] Fix the grammar. He want to go. [/INST]",
        "<<Be {brief}.>>[{INST}] Greet me.\n\nBriefly.\n",
    ),
    ({"field_output": "output", "field_input": "input"}, "Fix the grammar. He want to go. ", "Greet me.\n\nBriefly. "),
]


@pytest.mark.parametrize(
    ("kind", "with_input", "without"), mostly_slow(PROMPTS, PROMPTS[1:3]), ids=["alpaca", "chat", "own", "defaults"]
)
def test_rows_have_the_prompts_of_axolotl(kind, with_input, without, base_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in (WITH_INPUT, WITHOUT)))
    theirs = {"base_model": str(base_dir), "sequence_len": 256, "datasets": [{"path": "rows.jsonl", "type": kind}]}
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(theirs))
    assert main(["init", "--from", "theirs.yaml"]) == 0 and (tmp_path / "sft.jinja").is_file()
    assert main(["data", "preview", "sft.yaml", "-n", "2"]) == 0
    shown = capsys.readouterr().out
    assert f"\n{with_input}[[He wants to go.<|endoftext|>]]\n" in shown
    assert f"\n{without}[[Hello.<|endoftext|>]]\n" in shown
    assert main(["data", "check", "sft.yaml"]) == 0
    assert "omits" not in capsys.readouterr().out


def test_a_prompt_begins_with_bos_where_the_tokenizer_adds_one(translated):
    template = Environment().from_string(translated("base_model: x\ndatasets: [{path: d, type: alpaca}]").template)
    turn = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    begins = {bos: template.render(messages=turn, bos_token=bos, eos_token="E")[:8] for bos in ("<s>", "<|im_start|>")}
    assert begins == {"<s>": "<s>Below", "<|im_start|>": "Below is"}
    assert template.render(messages=[*turn, *turn], eos_token="E").endswith(
        "### Response:\nHoE### Instruction:\nHi\n\n### Response:\nHoE"
    )
    system = {"role": "system", "content": "Rhyme."}
    assert template.render(messages=[system, turn[0]]).startswith("Rhyme.\n\n### Instruction:\nHi")


def test_datasets_in_several_formats_keep_the_template_of_the_model(translated):
    found = translated("base_model: x\ndatasets: [{path: a, type: alpaca}, {path: b, type: chat_template}]")
    assert found.template == "" and "chat_template" not in found.settings
    assert values(found)["datasets"][0]["columns"]["prompt"] == "{instruction}\n{input}"
    assert [(one.key, one.value) for one in found.undecided] == [("datasets", ["alpaca", "chat_template"])]


@pytest.mark.parametrize(
    ("rl", "kind", "template", "undecided"),
    [
        ("dpo", "chat_template.default", None, []),
        ("dpo", "chatml.intel", "chatml", []),
        ("dpo", "llama3.icr", "llama3", []),
        ("dpo", "user_defined.default", None, ["datasets[0].type"]),
        ("dpo", "", None, ["datasets[0].type"]),
        ("", "bradley_terry.chat_template", None, []),
    ],
)
def test_pairs_have_the_chat_template_of_their_type(rl, kind, template, undecided, translated):
    text = f"base_model: x\ndatasets: [{{path: d, type: {kind}}}]\n" + (f"rl: {rl}" if rl else "reward_model: true")
    found = translated(text)
    assert values(found).get("chat_template") == template and [one.key for one in found.undecided] == undecided


@pytest.mark.parametrize("kind", ["input_output", "jeopardy", "completion", "{format: '{question}'}"])
def test_a_type_with_other_prompts_is_left_to_decide(kind, translated):
    found = translated(f"base_model: x\ndatasets: [{{path: d, type: {kind}}}]")
    assert [one.key for one in found.undecided] == ["datasets[0].type"] and not found.template


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {"warmup_steps": 0.03}),
        ("max_steps: 10", {"warmup_steps": 0}),
        ("max_steps: 50", {"warmup_steps": 2}),
        ("max_steps: 5000", {"warmup_steps": 100}),
        ("max_steps: 5000\nwarmup_ratio: 0.1", {"warmup_steps": 500}),
        ("warmup_ratio: 0.1", {"warmup_steps": 0.1}),
        ("warmup_steps: 1", {"warmup_steps": 2}),
        ("batch_size: 12\nmicro_batch_size: 4", {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4}),
        ("val_set_size: 0.1\neval_steps: 20", {"eval_strategy": "steps", "eval_steps": 20}),
        ("eval_steps: 20\nevals_per_epoch: 4", {"eval_strategy": None, "eval_steps": None}),
        ("gradient_checkpointing: offload", {"gradient_checkpointing": True}),
        ("chat_template: jinja\nchat_template_jinja: a/b.jinja", {"chat_template": "a/b.jinja"}),
        ("curriculum_sampling: true", {"train_sampling_strategy": "sequential"}),
    ],
)
def test_settings_are_those_that_axolotl_makes_of_them(text, wanted, translated):
    found = translated(f"base_model: m\ndatasets: [d]\n{text}")
    assert {key: values(found).get(key) for key in wanted} == wanted and not found.undecided


def test_differences_are_named_in_the_yaml(translated, tmp_path, monkeypatch):
    assert [one.key for one in translated("base_model: m\nmax_steps: 9").differences] == ["excess_length_strategy"]
    short = "excess_length_strategy: truncate\nwarmup_steps: 9"
    assert not translated(f"base_model: m\n{short}").differences
    dropped = translated("base_model: m\ndatasets: [d]\nexcess_length_strategy: drop")
    assert [one.key for one in dropped.undecided] == ["excess_length_strategy"]
    assert not translated(
        "base_model: m\nrl: dpo\ndatasets: [{path: d, type: chatml.intel}]\nwarmup_steps: 9"
    ).differences
    reward = translated("base_model: m\nreward_model: true\nwarmup_steps: 9")
    assert [one.key for one in reward.differences] == ["end_of_rows"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.yaml").write_text("base_model: m\ndatasets: [d]\n")
    assert main(["init", "--from", "theirs.yaml"]) == 0
    assert "# Different in axolotl:\n# - warmup_ratio: " in (tmp_path / "sft.yaml").read_text()
