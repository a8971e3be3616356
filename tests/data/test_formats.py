"""Files in the formats that people have, right and wrong, through the rows of SFT, reward modeling and PPO."""

import gzip
import json
from itertools import groupby
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hfkit import cli
from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.data.forms import FORMS, IGNORE
from hfkit.data.sources import read_entry
from hfkit.evaluation.held_out import find_held_out
from hfkit.evaluation.prompts import load_prompts

STAGES = {"sft": "instructions", "reward": "comparisons", "ppo": "prompts"}
CONFIG = SimpleNamespace(score_margin=0.0)
TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}"
    "{{ eos_token if m.role == 'assistant' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""Renders turns of any role: `<user>Where?<assistant>Oslo.$`, with $ for end-of-text."""


def rendered(stage: str, encoded: dict, tokenizer) -> object:
    """The text of an encoded row: of SFT with its trained tokens in brackets, of a comparison the better one first."""
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
    """rows_of(path, stage, **entry) -> the texts of the rows that a stage is trained on, and the recognized format."""

    def read(path, stage: str, **entry) -> tuple[list, str]:
        tokenizer, form = with_template(TEMPLATE), FORMS[STAGES[stage]]
        source = read_entry(DatasetEntry(path=str(path), **entry), form.columns)
        encoder = form.encoder(source.rows, tokenizer, 256, CONFIG)
        return [rendered(stage, encoder.function(row), tokenizer) for row in source.rows], source.format

    return read


def lines(*rows: dict) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_list(*rows: dict) -> bytes:
    return json.dumps(rows, indent=1).encode()


def zst(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def table(write, *rows: dict) -> bytes:
    """The bytes of a Parquet or an Arrow file."""
    sink, rows = pa.BufferOutputStream(), pa.Table.from_pylist([*rows])
    if write is pq.write_table:
        write(rows, sink)
    else:
        with write(sink, rows.schema) as stream:
            stream.write_table(rows)
    return sink.getvalue().to_pybytes()


def turn(source: str, text: str) -> dict:
    return {"from": source, "value": text}


def said(role: str, text: str) -> dict:
    return {"role": role, "content": text}


ASKED, OSLO, ROME = said("user", "Where?"), said("assistant", "Oslo."), said("assistant", "Rome.")
TOOL = {"name": "map", "parameters": {"type": "object"}}
SCHEMA = '<tools>[{"type": "function", "function": {"name": "map", "parameters": {"type": "object"}}}]</tools>'
CALL = '{"name": "map", "arguments": {"of": "Ada"}}'
PAIR = ("<user>Where?<assistant>Oslo.$", "<user>Where?<assistant>Rome.$")
FOR_REWARD = "its rows are pairs of replies (chosen, rejected), for the reward stage"
NOT_READ = "none that this stage reads"
ONE_RESPONSE = "its rows have one response each, for SFT: the reward stage reads prompt, chosen and rejected"
# file: its content; the line about its format; and by stage the rows, or what the error says.
RIGHT = {
    "sharegpt.json": (
        as_list(
            {"conversations": [turn("human", "Where?"), turn("gpt", "Oslo.")], "system": "Be brief."},
            {
                "conversations": [turn("human", "a"), turn("gpt", "b"), turn("human", "c"), turn("gpt", "d")],
                "system": "",
            },
        ),
        "sharegpt format: conversations -> messages, system -> a system turn",
        {
            "sft": ["<system>Be brief.<user>Where?<assistant>[Oslo.$]", "<user>a<assistant>[b$]<user>c<assistant>[d$]"],
            "ppo": ["<system>Be brief.<user>Where?<assistant>", "<user>a<assistant>b<|endoftext|><user>c<assistant>"],
            "reward": ONE_RESPONSE,
        },
    ),
    "sharegpt_tools.jsonl": (
        lines(
            {
                "conversations": [
                    *(turn("human", "Where?"), turn("function_call", CALL), turn("observation", "Oslo")),
                    turn("gpt", "In Oslo."),
                ],
                "tools": json.dumps([TOOL]),
            },
            {"conversations": [turn("human", "Hi."), turn("gpt", "Hello.")], "tools": ""},
        ),
        "sharegpt format: conversations -> messages, tools",
        {
            "sft": [
                SCHEMA + '<user>Where?<assistant>[map({"of": "Ada"})$]<tool>Oslo<assistant>[In Oslo.$]',
                "<user>Hi.<assistant>[Hello.$]",
            ],
            "ppo": [
                SCHEMA + '<user>Where?<assistant>map({"of": "Ada"})<|endoftext|><tool>Oslo<assistant>',
                "<user>Hi.<assistant>",
            ],
        },
    ),
    "sharegpt_pairs.json.gz": (
        gzip.compress(
            as_list(
                {
                    "conversations": [turn("human", "Where?")],
                    **{"chosen": turn("gpt", "Oslo."), "rejected": turn("gpt", "Rome.")},
                }
            )
        ),
        "sharegpt pairs format: conversations -> prompt, chosen, rejected",
        {
            "reward": [[PAIR]],
            "ppo": ["<user>Where?<assistant>"],
            "sft": f"{FOR_REWARD}. To train on the chosen ones, map them: datasets: [{{path: PATH, columns: {{prompt: "
            "conversations, response: chosen}}]",
        },
    ),
    "alpaca.json": (
        as_list(
            {"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be brief.", "text": "Below is"},
            {"instruction": "Where?", "input": "", "output": "Oslo.", "system": None, "text": "Below is"},
        ),
        "alpaca format: instruction + input -> prompt, output -> response, system -> a system turn",
        {
            "sft": ["<system>Be brief.<user>Add.\n\n1, 2<assistant>[3$]", "<user>Where?<assistant>[Oslo.$]"],
            "ppo": ["<system>Be brief.<user>Add.\n\n1, 2<assistant>", "<user>Where?<assistant>"],
            "reward": ONE_RESPONSE,
        },
    ),
    "alpaca_history.jsonl": (
        lines(
            {"instruction": "c", "input": "", "output": "d", "history": [["a", "b"]]},
            {"instruction": "Where?", "input": "", "output": "Oslo.", "history": []},
            {"instruction": "c", "input": "", "output": "d", "history": [["a"]]},
        ),
        "alpaca format: instruction + input -> prompt, output -> response, history -> earlier turns",
        {
            "sft": [
                "<user>a<assistant>[b$]<user>c<assistant>[d$]",
                "<user>Where?<assistant>[Oslo.$]",
                "dropped: neither text nor messages ({role: ..., content: ...})",
            ],
            "ppo": [
                "<user>a<assistant>b<|endoftext|><user>c<assistant>",
                "<user>Where?<assistant>",
                "dropped: neither text nor messages ({role: ..., content: ...})",
            ],
        },
    ),
    "alpaca_pairs.parquet": (
        table(pq.write_table, {"instruction": "Where?", "input": "Ada", "chosen": "Oslo.", "rejected": "Rome."}),
        "alpaca pairs format: instruction + input -> prompt, chosen, rejected",
        {
            "reward": [[("<user>Where?\n\nAda<assistant>Oslo.$", "<user>Where?\n\nAda<assistant>Rome.$")]],
            "ppo": ["<user>Where?\n\nAda<assistant>"],
            "sft": r'columns: {prompt: "{instruction}\n\n{input}", response: chosen}',
        },
    ),
    "openai.jsonl.gz": (
        gzip.compress(lines({"messages": [ASKED, OSLO], "functions": [TOOL]})),
        "messages format: messages, functions -> tools",
        {
            "sft": [SCHEMA + "<user>Where?<assistant>[Oslo.$]"],
            "ppo": [SCHEMA + "<user>Where?<assistant>"],
            "reward": ONE_RESPONSE,
        },
    ),
    "openai_functions.jsonl": (
        lines(
            {
                "messages": [
                    ASKED,
                    {
                        "role": "assistant",
                        "content": None,
                        "function_call": {"name": "map", "arguments": '{"of": "Ada"}'},
                    },
                    {"role": "function", "name": "map", "content": "Oslo"},
                    OSLO,
                ]
            }
        ),
        "messages format: messages",
        {"sft": ['<user>Where?<assistant>[map({"of": "Ada"})$]<tool>Oslo<assistant>[Oslo.$]']},
    ),
    "dpo.jsonl.zst": (
        zst(lines({"prompt": "Where?", "chosen": "Oslo.", "rejected": "Rome."})),
        "pairs format: prompt, chosen, rejected",
        {"reward": [[PAIR]], "ppo": ["<user>Where?<assistant>"], "sft": "columns: {prompt: prompt, response: chosen}"},
    ),
    "dpo_stream.arrow": (
        table(pa.ipc.new_stream, {"chosen": [ASKED, OSLO], "rejected": [ASKED, ROME]}),
        "pairs format: chosen, rejected",
        {"reward": [[PAIR]], "ppo": ["<user>Where?<assistant>"], "sft": "columns: {messages: chosen}"},
    ),
    "dpo_file.arrow.zst": (
        zst(table(pa.ipc.new_file, {"prompt": [ASKED], "chosen": [OSLO], "rejected": [ROME]})),
        "pairs format: prompt, chosen, rejected",
        {"reward": [[PAIR]], "ppo": ["<user>Where?<assistant>"]},
    ),
    "orca.csv": (
        b"system,question,chosen,rejected\nBe brief.,Where?,Oslo.,Rome.\n",
        "pairs format: question -> prompt, chosen, rejected, system -> a system turn",
        {"reward": [[tuple(f"<system>Be brief.{text}" for text in PAIR)]]},
    ),
    "kto.csv": (
        b"prompt,completion,label\nWhere?,Oslo.,True\nWhere?,Rome.,False\nWho?,Ada.,True\nWhat?,x,False\n",
        "kto format: prompt, completion, rows whose label is true (2 left out)",
        {"sft": ["<user>Where?<assistant>[Oslo.$]", "<user>Who?<assistant>[Ada.$]"]},
    ),
    "kto_system.jsonl": (
        lines(
            *(
                {"system": system, "prompt": "Where?", "completion": reply, "label": reply == "Oslo."}
                for reply in ("Oslo.", "Rome.")
                for system in ("Be brief.", "Be long.")
            )
        ),
        "kto format: prompt, completion -> replies, label -> scores, system -> a system turn",
        {"reward": [[tuple(f"<system>Be {how}.{text}" for text in PAIR)] for how in ("brief", "long")]},
    ),
    "kto.jsonl": (
        lines(
            {"prompt": [ASKED], "completion": [ROME], "label": False},
            {"prompt": [said("user", "Who?")], "completion": [said("assistant", "Ada.")], "label": True},
            {"prompt": [ASKED], "completion": [OSLO], "label": True},
        ),
        None,
        {
            "reward": [[PAIR]],
            "ppo": ["<user>Where?<assistant>", "<user>Who?<assistant>", "<user>Where?<assistant>"],
            "sft": ["<user>Who?<assistant>[Ada.$]", "<user>Where?<assistant>[Oslo.$]"],
        },
    ),
    "kto_messages.jsonl": (
        lines({"messages": [ASKED, OSLO], "label": True}, {"messages": [ASKED, ROME], "label": False}),
        "kto format: messages, rows whose label is true (1 left out)",
        {
            "sft": ["<user>Where?<assistant>[Oslo.$]"],
            "ppo": ["<user>Where?<assistant>"] * 2,
            "reward": "its rows have one response each, for SFT: the reward stage reads prompt, completion and label",
        },
    ),
    "kto_sharegpt.json": (
        lines(
            *(
                {"conversations": [turn("human", "Where?"), turn("gpt", reply)], "label": reply == "Oslo."}
                for reply in ("Oslo.", "Rome.")
            )
        ),
        "kto format: conversations -> messages, rows whose label is true (1 left out)",
        {"sft": ["<user>Where?<assistant>[Oslo.$]"], "ppo": ["<user>Where?<assistant>"] * 2},
    ),
    "completion.tsv": (
        b"prompt\tcompletion\nWhere, Ada?\t007\n",
        "prompt and completion format: prompt, completion",
        {"sft": ["<user>Where, Ada?<assistant>[007$]"], "reward": ONE_RESPONSE},
    ),
    "questions.ndjson.gz": (
        gzip.compress(lines({"question": "Where?", "answer": "Oslo.", "id": 1})),
        "question and answer format: question -> prompt, answer -> response",
        {"sft": ["<user>Where?<assistant>[Oslo.$]"], "reward": ONE_RESPONSE},
    ),
    "bom.csv.zst": (
        zst("\ufeffprompt,response\nWo?,Köln.\n".encode()),
        "prompt and response format: prompt, response",
        {"sft": ["<user>Wo?<assistant>[Köln.$]"]},
    ),
    "text.txt.zst": (
        zst(b"eins\nzwei\n"),
        "plain text format: text",
        {"sft": ["[eins$]", "[zwei$]"], "ppo": NOT_READ, "reward": NOT_READ},
    ),
}
WRONG = {
    "comma.json": (
        b'[\n{"prompt": "a", "response": "b"},\n]',
        {"sft": "comma.json: ValueError: line 3: remove the comma before ]"},
    ),
    "commas.json": (
        b'{"prompt": "a", "response": "b"},\n{"prompt": "a", "response": "b"}',
        {"sft": "line 1: remove the commas between the objects, or put all of them between [ and ]"},
    ),
    "open.json": (
        b'[{"prompt": "a", "response": "b"}',
        {"sft": "line 1: it ends within a value: close each list with ]"},
    ),
    "begins_with_gpt.jsonl": (
        lines({"conversations": [turn("gpt", "Hello."), turn("human", "Where?"), turn("gpt", "Oslo.")]}),
        {
            "sft": ["<assistant>[Hello.$]<user>Where?<assistant>[Oslo.$]"],
            "ppo": ["<assistant>Hello.<|endoftext|><user>Where?<assistant>"],
        },
    ),
    "unknown_role.jsonl": (
        lines({"conversations": [turn("human", "Where?"), turn("narrator", "Silence."), turn("gpt", "Oslo.")]}),
        {"sft": ["<user>Where?<narrator>Silence.<assistant>[Oslo.$]"]},
    ),
    "no_call.jsonl": (
        lines({"conversations": [turn("human", "a"), turn("function_call", "map(Ada)"), turn("gpt", "b")]}),
        {"sft": ["dropped: tool_calls whose arguments are not JSON"]},
    ),
    "no_output.jsonl": (
        lines({"instruction": "a", "output": "b"}, {"instruction": "a"}, {"instruction": "a", "output": None}),
        {"sft": ["<user>a<assistant>[b$]", "dropped: without a reply", "dropped: without a reply"]},
    ),
    "number.jsonl": (
        lines({"instruction": "a", "output": 7}),
        {"sft": 'holds int64, and should hold text or messages; for its text, map it: columns: {response: "{output}"}'},
    ),
    "equal.jsonl": (
        lines({"prompt": "a", "chosen": "b", "rejected": "b"}),
        {"reward": ["dropped: with equal replies"]},
    ),
    "wrapped.json": (
        json.dumps({"version": 1, "data": [{"prompt": "a", "response": "b"}] * 3}).encode(),
        {"sft": "is one object, whose key 'data' holds a list of 3 objects: write that list alone into the file"},
    ),
    "semicolon.csv": (b"prompt;response\na;b\n", {"sft": "its columns are separated by ';': save it with commas"}),
    "cp1252.csv": ("prompt,response\na,café\n".encode("cp1252"), {"sft": ": save the file as UTF-8"}),
    "unpaired.jsonl": (
        lines({"prompt": "a", "completion": "b", "label": True}, {"prompt": "c", "completion": "d", "label": False}),
        {"reward": "a prompt needs two replies, a better and a worse one (label: true and label: false)"},
    ),
    "labels_as_text.jsonl": (
        lines({"prompt": "a", "completion": "b", "label": "true"}),
        dict.fromkeys(STAGES, "the column 'label' holds text: write true and false without quotes"),
    ),
    "tools.jsonl": (
        lines({"messages": [ASKED, OSLO], "tools": "map(Ada)"}),
        {"sft": ["dropped: tools that are not JSON"], "ppo": ["dropped: tools that are not JSON"]},
    ),
    "more_input.jsonl": (
        lines({"instruction": "a", "input": "b", "context": "c", "output": "d"}),
        dict.fromkeys(
            ("sft", "ppo"),
            r"alpaca format, but context may belong to the prompt too. Map what the model should read: datasets: "
            r'[{path: PATH, columns: {prompt: "{context}\n\n{instruction}\n\n{input}"',
        ),
    ),
    "unread_prompt.jsonl": (
        lines({"situation": "a", "chosen": "The sum is 3", "rejected": "The sum is 4"}),
        dict.fromkeys(("reward", "ppo"), "it may be in situation. Map it"),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_file_of_each_format_is_read_as_it_was_meant(tmp_path, rows_of, name):
    content, line, stages = RIGHT[name]
    check(tmp_path, rows_of, name, content, stages, line)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_file_is_counted_or_said_with_what_to_write(tmp_path, rows_of, name):
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
    """Neither the rows that a label keeps, nor the columns of a format."""
    (tmp_path / "a.jsonl").write_bytes(lines({"prompt": "a", "completion": "b", "label": False, "input": "c"}))
    columns = {"prompt": "prompt", "completion": "completion"}
    assert rows_of(tmp_path / "a.jsonl", "sft", columns=columns) == (["<user>a<assistant>[b$]"], "")
    assert rows_of(tmp_path / "a.jsonl", "ppo", columns={"prompt": "input"}) == (["<user>c<assistant>"], "")


def test_conversions_stand_beside_columns(tmp_path, rows_of, config_of):
    rows = {"q": "c", "a": "d", "old": [["a", "b"]]}
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    columns = {"prompt": "q", "response": "a", "history": "old"}
    found, line = rows_of(tmp_path / "a.jsonl", "sft", columns=columns, convert=["history"])
    assert (found, line) == (["<user>a<assistant>[b$]<user>c<assistant>[d$]"], "")
    with pytest.raises(HfkitError, match=r"convert: history reads lists of .user, assistant., and 'history' holds"):
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
    with pytest.raises(HfkitError, match=r"its files are of several types: a\.csv, b\.jsonl; name a file, or a folder"):
        rows_of(tmp_path, "sft")


@pytest.fixture
def verb(tmp_path, base_dir, with_template, capsys):
    """verb(*words, stage, names) -> exit status and output of `hfkit` for a YAML that names some of the files above."""

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


@pytest.mark.parametrize("stage", STAGES)
def test_a_check_reads_every_file(verb, stage):
    expected = {name: rows for name, (*_, stages) in RIGHT.items() if isinstance(rows := stages.get(stage), list)}
    status, out = verb("data", "check", stage=stage, names=[*expected])
    assert status in (0, 1)  # the files have rows in common
    for name, rows in expected.items():
        kept = sum(not str(row).startswith("dropped") for row in rows)
        survey = out.partition(f"\n{stage} train: {name}\n")[2].splitlines()
        assert survey[0].startswith(f"  {len(rows)} rows, {kept} kept, ")
        line = RIGHT[name][1]
        assert line is None or stage != next(iter(RIGHT[name][2])) or survey[1] == f"  {line}"


@pytest.mark.parametrize("name", ["comma.json", "wrapped.json", "more_input.jsonl", "cp1252.csv"])
def test_a_check_says_what_to_write(verb, name):
    status, out = verb("data", "check", stage="sft", names=[name])
    assert status == 1 and WRONG[name][1]["sft"].replace("PATH", name) in out


@pytest.mark.parametrize("words", [["data", "check"], ["data", "preview"], ["plan"]], ids=" ".join)
def test_verbs_report_the_format(verb, words):
    status, out = verb(*words, stage="sft", names=["alpaca.json"])
    assert status == 0
    assert f"alpaca.json: {RIGHT['alpaca.json'][1]}\n" in out or f"\n  {RIGHT['alpaca.json'][1]}\n" in out


def test_a_check_fails_where_conversations_begin_with_a_reply(verb):
    status, out = verb("data", "check", stage="sft", names=["begins_with_gpt.jsonl"])
    assert status == 1 and "1 (100.0%) with a reply before the first question" in out


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
