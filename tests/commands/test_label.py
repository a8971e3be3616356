"""`hfkit label`: people judge over HTTP, and nothing that they did is lost."""

import json
import signal
import socket
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import pytest
from conftest import write_rows
from forks import FEW, run
from label_pages import Labeler, request
from quick import slow

from hfkit.core.files import read_json_mapping


def samples(count: int, replies: int = 3) -> list[dict]:
    """Rankings without ranks, as `hfkit sample` writes them."""
    return [
        {
            "prompt": f"Question {n}?",
            "replies": [f"Answer {n}.{one}" for one in range(replies)],
            "models": ["secret-model"] * replies,
            "scores": [0.125] * replies,
        }
        for n in range(count)
    ]


@pytest.fixture
def start(servers, tmp_path):
    """start(rows, *flags): a server on these rows, whose folder is tmp_path / "labels"."""

    def begin(rows: list[dict], *flags: object, output: str = "printed.txt", **env: str):
        file = write_rows(tmp_path / "rows.jsonl", rows)
        port = () if "--port" in flags else ("--port", 0)
        argv = (file, *flags, "--output_dir", tmp_path / "labels", *port)
        return servers.start(*argv, output=tmp_path / output, **env)

    return begin


def events_in(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "judgements.jsonl").read_text().splitlines()]


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_judgement_is_on_the_disk_before_the_answer(start, tmp_path):
    server = start(samples(3))
    ann = Labeler(server.url, "Ann")
    given = ann.next()
    assert (given["done"], given["total"], given["all_done"]) == (0, 3, 0)
    row = given["row"]
    assert row["prompt"] == [{"role": "user", "content": row["prompt"][0]["content"]}] and row["judgement"] is None
    assert sorted(reply["index"] for reply in row["replies"]) == [0, 1, 2]
    following = ann.judge(row, flags=[["wrong"], [], []], note="hm", seconds=2.25)
    (event,) = events_in(tmp_path / "labels")
    assert (event["labeler"], event["row"], event["seconds"], event["note"]) == ("Ann", row["row"], 2.25, "hm")
    assert event["flags"] == [["wrong"], [], []] and sorted(event["ranks"]) == [1, 2, 3]
    assert following["done"] == following["all_done"] == 1 and following["row"]["row"] != row["row"]


def test_a_repeated_request_is_saved_once(start, tmp_path):
    ann = Labeler(start(samples(3)).url, "Ann")
    row = ann.next()["row"]
    for _ in range(3):
        ann.judge(row, id="the-same-id")
    assert [event["id"] for event in events_in(tmp_path / "labels")] == ["the-same-id"]


def test_an_id_of_another_judgement_is_rejected_instead_of_reported_as_saved(start, tmp_path):
    page = start(samples(3))
    ann, bob = Labeler(page.url, "Ann"), Labeler(page.url, "Bob")
    following = ann.judge(ann.next()["row"], id="the-same-id")["row"]
    for labeler, row in ((bob, bob.next()["row"]), (ann, following)):
        event = {"id": "the-same-id", "row": row["row"], "ranks": [1, 2, 3]}
        assert labeler.send("POST", "/api/judgements", event)[::2] == (409, {"error": "this id is another event's"})
    assert [event["labeler"] for event in events_in(tmp_path / "labels")] == ["Ann"]


def test_models_and_scores_stay_on_the_server(start):
    server = start(samples(2))
    ann = Labeler(server.url, "Ann")
    shown = json.dumps([ann.next(), request(server.url, "GET", "/api/setup")[2]])
    assert "Question" in shown and "secret-model" not in shown and "0.125" not in shown


def test_undo_takes_back_the_last_judgement_and_then_the_one_before(start, tmp_path):
    ann = Labeler(start(samples(3)).url, "Ann")
    first = ann.next()["row"]
    second = ann.judge(first, answer="Better.")["row"]
    ann.judge(second, kind="skip")
    status, _, undone = ann.send("POST", "/api/undo", {"id": "undo-one"})
    assert status == 200 and undone["row"]["row"] == second["row"] and undone["row"]["judgement"]["kind"] == "skip"
    assert ann.send("POST", "/api/undo", {"id": "undo-one"})[2] == undone  # repeated after a lost answer
    undone = ann.send("POST", "/api/undo", {"id": "undo-two"})[2]
    assert undone["row"]["row"] == first["row"] and undone["row"]["judgement"]["answer"] == "Better."
    assert undone["done"] == 0
    assert ann.send("POST", "/api/undo", {"id": "undo-three"})[0] == 409
    assert [event["kind"] for event in events_in(tmp_path / "labels")] == ["judgement", "skip", "undo", "undo"]


@pytest.mark.slow
def test_the_later_judgement_of_a_row_counts(start, tmp_path):
    server = start(samples(2, replies=2))
    ann = Labeler(server.url, "Ann")
    row = ann.next()["row"]
    ann.judge(row, ranks=[1, 2])
    again = ann.send("GET", f"/api/rows/{row['row']}")[2]["row"]
    assert again["judgement"]["ranks"] == [1, 2] and again["replies"] == row["replies"]
    ann.judge(again, ranks=[2, 1])
    assert server.end(signal.SIGINT) == 130
    (ranking,) = lines_of(tmp_path / "labels" / "rankings.jsonl")
    assert ranking["ranks"] == [2, 1]
    assert read_json_mapping(tmp_path / "labels" / "labels.json")["counts"]["judgements"] == 1


@pytest.mark.parametrize(("number", "status"), [slow(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_page_for_those_on_it_with_files_and_counts(start, tmp_path, number, status):
    server = start(samples(4))
    ann = Labeler(server.url, "Ann")
    ann.judge(ann.next()["row"])
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port)):  # as a browser that shows the page
        assert server.end(number) == status
    assert "1 of 4 rows judged, 1 judgements" in server.printed() and "to resume: hfkit label" in server.printed()
    assert "Traceback" not in server.printed(), server.printed()
    assert len(lines_of(tmp_path / "labels" / "rankings.jsonl")) == 1
    counts = read_json_mapping(tmp_path / "labels" / "labels.json")["counts"]
    assert (counts["rows"], counts["judged"], counts["rankings"], counts["instructions"]) == (4, 1, 1, 0)
    assert not (tmp_path / "labels" / "instructions.jsonl").exists()


@pytest.mark.slow
def test_sixty_judgements_of_two_people_survive_five_kills(servers, tmp_path):
    """Ann and Bob judge 30 rows each at once, and repeat what got no answer; kill -9 ends the server five times."""
    file, port, folder = write_rows(tmp_path / "rows.jsonl", samples(60)), free_port(), tmp_path / "labels"
    argv = (file, "--output_dir", folder, "--port", port)
    judged, failures = {"Ann": [], "Bob": []}, []

    def work(name: str) -> None:
        try:
            labeler = Labeler(f"http://127.0.0.1:{port}", name, retries=True)
            row = labeler.next()["row"]
            while row is not None and len(judged[name]) < 30:
                following = labeler.judge(row, ranks=[1, 2, 3])  # opposite ranks of two people are no ranking
                judged[name].append(row["row"])
                row = following["row"]
        except BaseException as error:
            failures.append(error)
            raise

    server = servers.start(*argv, output=tmp_path / "0.txt")
    people = [threading.Thread(target=work, args=(name,)) for name in judged]
    for person in people:
        person.start()
    for kill in range(1, 6):
        while sum(map(len, judged.values())) < 10 * kill and not failures:
            time.sleep(0.002)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        if kill == 3:  # cut off within the last line
            with (folder / "judgements.jsonl").open("a") as stream:
                stream.write('{"id": "half')
        server = servers.start(*argv, output=tmp_path / f"{kill}.txt")
    for person in people:
        person.join()
    assert not failures
    server.end(signal.SIGTERM)
    events = events_in(folder)
    assert len(events) == 60 == len({event["id"] for event in events})
    assert Counter(event["labeler"] for event in events) == {"Ann": 30, "Bob": 30}
    assert Counter((event["labeler"], event["row"]) for event in events) == Counter(
        (name, row) for name, rows in judged.items() for row in rows
    )
    assert len(lines_of(folder / "rankings.jsonl")) == len({event["row"] for event in events})


def test_two_labelers_get_different_rows_and_with_overlap_the_same(start, tmp_path):
    server = start(samples(4))
    ann, bob = Labeler(server.url, "Ann"), Labeler(server.url, "Bob")
    rows = [ann.next()["row"]["row"], bob.next()["row"]["row"]]
    assert len(set(rows)) == 2
    assert ann.next()["row"]["row"] == rows[0]  # after a reload
    assert ann.next(rows[0])["row"]["row"] not in rows  # prefetched
    server.end(signal.SIGTERM)
    server = start(samples(4), "--overlap", 2, output="again.txt")
    seen = {}
    for name in ("Ann", "Bob", "Cid"):
        labeler, seen[name] = Labeler(server.url, name), []
        given = labeler.next()
        while given["row"] is not None:
            seen[name].append(given["row"]["row"])
            given = labeler.judge(given["row"])
    assert [len(set(rows)) for rows in seen.values()] == [4, 4, 0] and set(seen["Ann"]) == set(seen["Bob"])
    server.end(signal.SIGTERM)
    found = read_json_mapping(tmp_path / "labels" / "labels.json")["agreement"]
    assert found["pairs"] == 4 * 3 and -1 <= found["low"] <= found["alpha"] <= found["high"] <= 1
    assert [(pair["a"], pair["b"]) for pair in found["labelers"]] == [("Ann", "Bob")]
    assert "agreement: alpha" in server.printed()


def test_the_files_are_written_while_the_page_runs(start, tmp_path):
    ann = Labeler(start(samples(45)).url, "Ann")
    row = ann.next()["row"]
    for _ in range(40):
        row = ann.judge(row)["row"]
    latest, rankings = time.monotonic() + 30, tmp_path / "labels" / "rankings.jsonl"
    while not (rankings.exists() and len(lines_of(rankings)) >= 20):
        assert time.monotonic() < latest
        time.sleep(0.02)


@pytest.mark.slow
def test_the_page_goes_on_when_the_results_cannot_be_written(start, tmp_path):
    server, blocked = start(samples(25)), tmp_path / "labels" / "labels.json"
    blocked.mkdir()
    ann = Labeler(server.url, "Ann")
    row = ann.next()["row"]
    for _ in range(20):
        row = ann.judge(row)["row"]
    latest = time.monotonic() + 30
    while "the results are not written" not in server.printed():
        assert time.monotonic() < latest and server.status() is None
        time.sleep(0.02)
    blocked.rmdir()
    ann.judge(row)
    assert server.end(signal.SIGTERM) == 143
    assert read_json_mapping(blocked)["counts"]["judgements"] == 21


def test_the_page_ends_when_it_is_complete(start, tmp_path):
    server = start(samples(2), "--until_complete")
    ann = Labeler(server.url, "Ann")
    row = ann.judge(ann.next()["row"])["row"]
    assert ann.judge(row, kind="skip")["row"] is None
    assert server.end() == 0
    assert "1 of 2 rows judged" in server.printed()
    assert len(lines_of(tmp_path / "labels" / "rankings.jsonl")) == 1


@pytest.mark.slow
def test_judgements_of_rows_that_are_gone_are_kept(start, tmp_path):
    server = start(samples(3))
    ann = Labeler(server.url, "Ann")
    row = ann.next()["row"]
    for _ in range(3):
        row = ann.judge(row)["row"]
    server.end(signal.SIGTERM)
    server = start(samples(2), output="fewer.txt")
    ann = Labeler(server.url, "Ann")
    assert ann.next()["row"] is None
    for number in range(2):
        assert ann.send("POST", "/api/undo", {"id": f"undo-{number}-of-two"})[0] == 200
        ann.judge(ann.next()["row"])
    server.end(signal.SIGTERM)
    counts = read_json_mapping(tmp_path / "labels" / "labels.json")["counts"]
    assert (counts["rows"], counts["judgements"], counts["gone"], counts["rankings"]) == (2, 2, 1, 2)
    assert "1 judgements of rows that are gone" in server.printed()
    assert len(events_in(tmp_path / "labels")) == 3 + 4
    server = start(samples(5), output="more.txt")
    assert Labeler(server.url, "Ann").next()["done"] == 3


def test_a_port_in_use_and_a_folder_in_use_are_errors(servers, start, tmp_path):
    server = start(samples(2))
    port = server.url.rpartition(":")[2]
    again = servers.run(
        tmp_path / "rows.jsonl", "--output_dir", tmp_path / "other", "--port", port, output=tmp_path / "p"
    )
    assert again.end() == 1 and f"port {port} (Address already in use)" in again.printed()
    again = servers.run(
        tmp_path / "rows.jsonl", "--output_dir", tmp_path / "labels", "--port", 0, output=tmp_path / "q"
    )
    assert again.end() == 1 and "another process is labeling into" in again.printed()


@pytest.mark.slow
def test_prompts_alone_and_single_responses_and_pairs(start, tmp_path):
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "good", "rejected": "bad"}])
    thumbs = [{"prompt": "t", "completion": "yes", "label": True}, {"prompt": "u", "completion": "no", "label": False}]
    thumbs = write_rows(tmp_path / "thumbs.jsonl", thumbs)
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    turns = write_rows(tmp_path / "turns.jsonl", [{"messages": [*chat, {"role": "assistant", "content": "a"}]}])
    server = start([{"prompt": "alone"}], pairs, thumbs, turns)
    ann, shown = Labeler(server.url, "Ann"), {}
    given = ann.next()
    while given["row"] is not None:
        row = given["row"]
        texts = {reply["index"]: reply["text"] for reply in row["replies"]}
        shown[row["prompt"][-1]["content"]] = [texts[index] for index in sorted(texts)]
        fields = {} if texts else {"ranks": None, "answer": "written"}
        given = ann.judge(row, **fields, all_bad=texts == {0: "no"})
    assert shown == {"alone": [], "p": ["good", "bad"], "t": ["yes"], "u": ["no"], "q": ["a"]}
    server.end(signal.SIGTERM)
    assert [row["prompt"] for row in lines_of(tmp_path / "labels" / "rankings.jsonl")] == ["p"]
    written = {
        row["messages"][-2]["content"]: row["messages"][-1]
        for row in lines_of(tmp_path / "labels" / "instructions.jsonl")
    }
    assert {prompt: reply["content"] for prompt, reply in written.items()} == {"alone": "written", "t": "yes", "q": "a"}


def test_html_in_rows_is_text_and_html_in_the_guide_is_escaped(start, tmp_path):
    guide = tmp_path / "guide.md"
    guide.write_text("# Rank\n\n<script>alert(1)</script> [x](javascript:alert(1)) ![i](pixel.png) **b**")
    attack = "<img src=x onerror=alert(1)>"
    server = start([{"prompt": attack, "replies": [attack, "fine"]}], "--guide", guide)
    row = Labeler(server.url, "Ann").next()["row"]
    assert row["prompt"][0]["content"] == attack and attack in [reply["text"] for reply in row["replies"]]
    shown = request(server.url, "GET", "/api/setup")[2]["guide"]
    assert "<h3>Rank</h3>" in shown and "<strong>b</strong>" in shown and "&lt;script&gt;" in shown
    assert "<script" not in shown and 'href="javascript' not in shown and "<img" not in shown


def test_opening_two_hundred_rows_sends_one(start):
    server = start(samples(200, replies=4))
    began = time.monotonic()
    status, _, page = request(server.url, "GET", "/")
    ann = Labeler(server.url, "Ann")
    given = ann.next()
    print(f"page, login and first row: {1000 * (time.monotonic() - began):.0f} ms")
    assert status == 200 and "<html" in page and "Answer 0" not in page
    assert given["total"] == 200 and len(given["row"]["replies"]) == 4
    assert json.dumps(given).count("Answer ") == 4


LOADED = """
import sys
from hfkit.cli import main
assert main(sys.argv[1:]) == 0
print(sorted({"peft", "trl", "transformers.modeling_utils"} & {*sys.modules}))
"""


@pytest.mark.slow
def test_people_do_not_wait_for_the_libraries_of_training(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", samples(2))
    ran = run(LOADED, "label", file, "--export", "--output_dir", tmp_path / "labels", level=FEW)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, "[]"), ran.stderr
