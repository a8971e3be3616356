"""Files in common formats, correct and faulty, with the rows that each stage reads from them."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq

STAGES = {"sft": "instructions", "reward": "comparisons", "ppo": "prompts"}
"""The form of the rows of each stage."""


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


def message(role: str, text: str) -> dict:
    return {"role": role, "content": text}


ASKED, OSLO, ROME = message("user", "Where?"), message("assistant", "Oslo."), message("assistant", "Rome.")
TOOL = {"name": "map", "parameters": {"type": "object"}}
SCHEMA = '<tools>[{"type": "function", "function": {"name": "map", "parameters": {"type": "object"}}}]</tools>'
CALL = '{"name": "map", "arguments": {"of": "Ada"}}'
PAIR = ("<user>Where?<assistant>Oslo.$", "<user>Where?<assistant>Rome.$")
FOR_REWARD = "its rows are pairs of responses (chosen, rejected), for these stages: reward, dpo"
NOT_READ = "none that this stage reads"
ONE_RESPONSE = "its rows have one response each, as for SFT; this stage reads pairs (prompt, chosen and rejected)"
# file: its content; the line about its format; and by stage the rows, or the error message.
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
            {"prompt": [message("user", "Who?")], "completion": [message("assistant", "Ada.")], "label": True},
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
            "reward": ONE_RESPONSE.replace("chosen and rejected", "completion and label"),
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
        {"sft": "line 1: remove the commas between the objects, or enclose all objects in [ and ]"},
    ),
    "open.json": (
        b'[{"prompt": "a", "response": "b"}',
        {"sft": "line 1: the file ends within a value: close each list with ]"},
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
        {"sft": ["<user>a<assistant>[b$]", "dropped: without a response", "dropped: without a response"]},
    ),
    "number.jsonl": (
        lines({"instruction": "a", "output": 7}),
        {"sft": 'holds int64, expected text or messages; to read it as text: columns: {response: "{output}"}'},
    ),
    "equal.jsonl": (
        lines({"prompt": "a", "chosen": "b", "rejected": "b"}),
        {"reward": ["dropped: with equal responses"]},
    ),
    "wrapped.json": (
        json.dumps({"version": 1, "data": [{"prompt": "a", "response": "b"}] * 3}).encode(),
        {"sft": "is one object, whose key 'data' holds a list of 3 objects: write only that list into the file"},
    ),
    "semicolon.csv": (b"prompt;response\na;b\n", {"sft": "its columns are separated by ';': save it with commas"}),
    "cp1252.csv": ("prompt,response\na,café\n".encode("cp1252"), {"sft": ": save the file as UTF-8"}),
    "unpaired.jsonl": (
        lines({"prompt": "a", "completion": "b", "label": True}, {"prompt": "c", "completion": "d", "label": False}),
        {"reward": "a prompt needs two responses, a better and a worse one (label: true and label: false)"},
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
            r"alpaca format, but context may belong to the prompt too. To include it: datasets: "
            r'[{path: PATH, columns: {prompt: "{context}\n\n{instruction}\n\n{input}"',
        ),
    ),
    "unread_prompt.jsonl": (
        lines({"situation": "a", "chosen": "The sum is 3", "rejected": "The sum is 4"}),
        dict.fromkeys(("reward", "ppo"), "it may be in situation. Map it"),
    ),
}
