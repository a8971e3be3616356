"""Files in common formats, correct and faulty, as rows of SFT, reward modeling and PPO."""

from itertools import groupby
from types import SimpleNamespace

import pyarrow as pa
import pytest
import yaml
from format_files import ASKED, RIGHT, STAGES, WRONG, lines, table, zst

from hfkit import cli
from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.data.forms import FORMS, IGNORE
from hfkit.data.sources import read_entry
from hfkit.evaluation.held_out import find_held_out
from hfkit.evaluation.prompts import load_prompts

CONFIG = SimpleNamespace(score_margin=0.0)
TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}"
    "{{ eos_token if m.role == 'assistant' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""Renders turns of any role: `<user>Where?<assistant>Oslo.$`, with $ for end-of-text."""


def rendered(stage: str, encoded: dict, tokenizer) -> object:
    """Return the text of an encoded row: SFT with trained tokens in brackets, a comparison the better one first."""
    if encoded["dropped"]:
        return f"dropped: {encoded['dropped']}"
    if stage == "sft":
        runs = groupby(zip(encoded["input_ids"], encoded["labels"], strict=True), lambda pair: pair[1] != IGNORE)
        texts = [(trained, tokenizer.decode([token for token, _ in run])) for trained, run in runs]
        return "".join(f"[{text}]" if trained else text for trained, text in texts).replace("<|endoftext|>", "$")
    if stage == "ppo":
        return tokenizer.decode(encoded["input_ids"])
    if "reply_ids" in encoded:
        replies = encoded["reply_ids"]
        pairs = [(replies[one], replies[other]) for one, other in zip(encoded["better"], encoded["worse"], strict=True)]
    else:
        pairs = [(encoded["chosen_ids"], encoded["rejected_ids"])]
    return [tuple(tokenizer.decode(ids).replace("<|endoftext|>", "$") for ids in pair) for pair in pairs]


@pytest.fixture
def rows_of(with_template):
    """rows_of(path, stage, **entry) -> the texts of a stage's training rows, and the recognized format."""

    def read(path, stage: str, **entry) -> tuple[list, str]:
        tokenizer, form = with_template(TEMPLATE), FORMS[STAGES[stage]]
        source = read_entry(DatasetEntry(path=str(path), **entry), form.columns)
        encoder = form.encoder(source.rows, tokenizer, 256, CONFIG)
        return [rendered(stage, encoder.function(row), tokenizer) for row in source.rows], source.format

    return read


@pytest.mark.parametrize("name", RIGHT)
def test_a_file_of_each_format_is_read_correctly(tmp_path, rows_of, name):
    content, line, stages = RIGHT[name]
    check(tmp_path, rows_of, name, content, stages, line)


@pytest.mark.parametrize("name", WRONG)
def test_faults_of_a_file_are_counted_or_reported_with_a_remedy(tmp_path, rows_of, name):
    check(tmp_path, rows_of, name, *WRONG[name])


def check(folder, rows_of, name: str, content: bytes, stages: dict, line: str | None = None) -> None:
    (folder / name).write_bytes(content)
    for index, (stage, expected) in enumerate(stages.items()):
        if isinstance(expected, str):
            with pytest.raises(HfkitError) as error:
                rows_of(folder / name, stage)
            assert expected.replace("PATH", str(folder / name)) in str(error.value)
        elif expected:
            rows, found = rows_of(folder / name, stage)
            assert rows == expected
            assert index or line in (None, found)


def test_a_mapping_is_never_overridden(tmp_path, rows_of):
    """A format overrides neither the kept rows nor the columns of a mapping."""
    (tmp_path / "a.jsonl").write_bytes(lines({"prompt": "a", "completion": "b", "label": False, "input": "c"}))
    columns = {"prompt": "prompt", "completion": "completion"}
    assert rows_of(tmp_path / "a.jsonl", "sft", columns=columns) == (["<user>a<assistant>[b$]"], "")
    assert rows_of(tmp_path / "a.jsonl", "ppo", columns={"prompt": "input"}) == (["<user>c<assistant>"], "")


def test_conversions_work_with_columns(tmp_path, rows_of, config_of):
    rows = {"q": "c", "a": "d", "old": [["a", "b"]]}
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    columns = {"prompt": "q", "response": "a", "history": "old"}
    found, line = rows_of(tmp_path / "a.jsonl", "sft", columns=columns, convert=["history"])
    assert (found, line) == (["<user>a<assistant>[b$]<user>c<assistant>[d$]"], "")
    with pytest.raises(HfkitError, match=r"convert: history reads lists of .user, assistant., but 'history' holds"):
        rows_of(tmp_path / "a.jsonl", "sft", columns={"prompt": "a", "history": "q"}, convert=["history"])
    entry = {"path": str(tmp_path / "a.jsonl"), "convert": ["histroy"]}
    with pytest.raises(ConfigError, match=r"datasets\[0\]\.convert\[0\]: 'histroy' -> expected one of: transcript"):
        config_of("sft", tmp_path / "out", datasets=[entry])
    with pytest.raises(ConfigError, match=r"datasets\[0\]\.convert: .* the card sets it"):
        config_of("sft", tmp_path / "out", datasets=[{"card": "alpaca", "convert": ["history"]}])


@pytest.mark.parametrize("name", ["kto.csv", "sharegpt_tools.jsonl", "alpaca.json", "text.txt.zst"])
def test_the_format_of_a_stream_is_recognized(tmp_path, rows_of, name):
    content, line, stages = RIGHT[name]
    (tmp_path / name).write_bytes(content)
    rows, found = rows_of(tmp_path / name, "sft", streaming=True, rows=9)
    assert sorted(rows) == sorted(stages["sft"])
    assert found.partition(" (")[0] == line.partition(" (")[0]


@pytest.mark.parametrize("names", [["a.tsv", "b.tsv"], ["a.arrow", "b.arrow"], ["a.jsonl.zst", "b.jsonl.zst"]])
def test_a_folder_of_files_of_one_type_is_read(tmp_path, rows_of, names):
    row = {"prompt": "a", "response": "b"}
    content = {
        "tsv": b"prompt\tresponse\na\tb\n",
        "arrow": table(pa.ipc.new_file, row),
        "zst": zst(lines(row)),
    }
    for name in names:
        (tmp_path / name).write_bytes(content[name.rpartition(".")[2]])
    assert rows_of(tmp_path, "sft")[0] == ["<user>a<assistant>[b$]"] * 2


def test_a_folder_of_files_of_several_types_is_refused(tmp_path, rows_of):
    (tmp_path / "a.csv").write_text("prompt,response\na,b\n")
    (tmp_path / "b.jsonl").write_bytes(lines({"prompt": "a", "response": "b"}))
    with pytest.raises(HfkitError, match=r"its files have several types: a\.csv, b\.jsonl; name a file, or a folder"):
        rows_of(tmp_path, "sft")


@pytest.fixture
def verb(tmp_path, base_dir, with_template, capsys):
    """verb(*words, stage, names) -> exit status and output of `hfkit` for a YAML with some of the files above."""

    def run(*words: str, stage: str, names: list[str]) -> tuple[int, str]:
        for name in names:
            (tmp_path / name).write_bytes((RIGHT.get(name) or WRONG[name])[0])
        with_template(TEMPLATE).save_pretrained(tmp_path / "tokenizer")
        config = {
            "datasets": [{"path": str(tmp_path / name)} for name in names],
            **{"output_dir": str(tmp_path / "out"), "model_name_or_path": str(base_dir)},
            **(
                {"reward_functions": ["math:sqrt"], "max_prompt_length": 200} if stage == "ppo" else {"max_length": 256}
            ),
        }
        (tmp_path / f"{stage}.yaml").write_text(yaml.safe_dump(config))
        flags = ["--tokenizer", str(tmp_path / "tokenizer")] * (words[0] == "data")
        status = cli.main([*words, str(tmp_path / f"{stage}.yaml"), *flags])
        return status, "".join(capsys.readouterr()).replace(f"{tmp_path}/", "")

    return run


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_check_reads_every_file(verb, stage):
    expected = {name: rows for name, (*_, stages) in RIGHT.items() if isinstance(rows := stages.get(stage), list)}
    status, out = verb("data", "check", stage=stage, names=[*expected])
    assert status in (0, 1)  # the files share rows
    for name, rows in expected.items():
        kept = sum(not str(row).startswith("dropped") for row in rows)
        survey = out.partition(f"\n{stage} train: {name}\n")[2].splitlines()
        assert survey[0].startswith(f"  {len(rows)} rows, {kept} kept, ")
        line = RIGHT[name][1]
        assert line is None or stage != next(iter(RIGHT[name][2])) or survey[1] == f"  {line}"


@pytest.mark.parametrize("name", ["comma.json", "wrapped.json", "more_input.jsonl", "cp1252.csv"])
def test_a_check_prints_the_remedy(verb, name):
    status, out = verb("data", "check", stage="sft", names=[name])
    assert status == 1 and WRONG[name][1]["sft"].replace("PATH", name) in out


@pytest.mark.parametrize("words", [["data", "check"], ["data", "preview"], ["plan"]], ids=" ".join)
def test_verbs_report_the_format(verb, words):
    status, out = verb(*words, stage="sft", names=["alpaca.json"])
    assert status == 0
    assert f"alpaca.json: {RIGHT['alpaca.json'][1]}\n" in out or f"\n  {RIGHT['alpaca.json'][1]}\n" in out


def test_a_check_fails_where_conversations_begin_with_a_reply(verb):
    status, out = verb("data", "check", stage="sft", names=["begins_with_gpt.jsonl"])
    assert status == 1 and "1 (100.0%) with a response before the first question" in out


def test_a_plan_counts_the_rows_that_are_kept(verb):
    status, out = verb("plan", stage="sft", names=["kto.csv"])
    assert status == 0 and "(2 left out)" in out


def test_evaluate_and_arena_read_formats(tmp_path, capsys):
    for name in ("alpaca_pairs.parquet", "alpaca.json", "sharegpt_pairs.json.gz"):
        (tmp_path / name).write_bytes(RIGHT[name][0])
    entry = DatasetEntry(path=str(tmp_path / "alpaca_pairs.parquet"))
    pairs = find_held_out({}, True, 9, [entry]).rows
    assert pairs.to_list() == [{"prompt": "Where?\n\nAda", "chosen": "Oslo.", "rejected": "Rome."}]
    prompts, _ = load_prompts([entry], 9, 0, [])
    assert prompts == [{"prompt": "Where?\n\nAda", "reference": None}]
    prompts, _ = load_prompts([DatasetEntry(path=str(tmp_path / "alpaca.json"))], 9, 0, ["output"])
    assert [(row["prompt"][-1]["content"], row["reference"], row["output"]) for row in prompts] == [
        ("Add.\n\n1, 2", "3", "3"),
        ("Where?", "Oslo.", "Oslo."),
    ]
    prompts, _ = load_prompts([DatasetEntry(path=str(tmp_path / "sharegpt_pairs.json.gz"))], 9, 0, [])
    assert [row["prompt"] for row in prompts] == [[ASKED]]
    out = capsys.readouterr().out
    assert out.count("alpaca pairs format: instruction + input -> prompt") == 2
    assert out.count("alpaca.json: alpaca format: ") == 1
