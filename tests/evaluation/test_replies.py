"""Responses that an evaluation samples: once, kept as they come, and found again by one that goes on."""

import json
import signal
import subprocess
import sys
import time

import pytest
from quick import slow

from hfkit.config.evaluation import EvaluateConfig
from hfkit.config.parsing import load_config
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.evaluation.checks import problems_of
from hfkit.evaluation.evaluate import evaluate
from hfkit.evaluation.replies import Reply, Sampling, Subject, have_ended, load_or_sample
from hfkit.evaluation.results_file import ResultsFile


def test_replies_are_sampled_once_and_an_interruption_changes_none(sft_dir, tmp_path):
    subject = Subject("sft", str(sft_dir))
    prompts = [subject.encode(f"What does {name} like?") for name in "Ann Bob Cid Dee Eve".split()]
    sampling = Sampling(6, 1.0, seed=3)
    whole = load_or_sample(subject, prompts, sampling, ResultsFile(tmp_path / "whole"), batch_size=2)
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    part = tmp_path / "part"
    part.write_text("".join(lines[:4]) + lines[4][:20])  # the second batch was kept, the third cut off
    again = load_or_sample(subject, prompts, sampling, ResultsFile(part), batch_size=2)
    assert again == whole
    assert part.read_text().splitlines(keepends=True)[:4] == lines[:4]
    subject.unload()
    untouched = part.read_bytes()
    assert load_or_sample(subject, prompts, sampling, ResultsFile(part), batch_size=2) == whole
    assert part.read_bytes() == untouched
    assert "model" not in vars(subject)  # no weights were needed


@pytest.mark.parametrize(
    "other", [Sampling(6, 1.0, seed=4), slow(Sampling(6, 0.9, seed=3)), slow(Sampling(5, 1.0, seed=3))]
)
def test_other_settings_are_other_replies(sft_dir, tmp_path, other):
    subject, kept = Subject("sft", str(sft_dir)), ResultsFile(tmp_path / "kept")
    prompts = [subject.encode("What does Ann like?")]
    load_or_sample(subject, prompts, Sampling(6, 1.0, seed=3), kept, 2)
    load_or_sample(subject, prompts, other, kept, 2)
    assert len(kept.known) == 2


def test_a_text_with_line_breaks_is_one_line(tmp_path):
    text = "one\u2028two\x85three\nfour\rfive"
    ResultsFile(tmp_path / "kept").add({"a": {"text": text}, "b": {"text": ""}})
    assert ResultsFile(tmp_path / "kept")["a"]["text"] == text


def test_a_line_that_was_cut_within_a_character_is_dropped(tmp_path):
    ResultsFile(tmp_path / "kept").add({"a": {"text": "whole"}, "b": {"text": "né"}})
    content = (tmp_path / "kept").read_bytes()
    (tmp_path / "kept").write_bytes(content[: content.index("é".encode()) + 1])
    assert [*ResultsFile(tmp_path / "kept").known] == ["a"]
    assert (tmp_path / "kept").read_bytes() == content[: content.index(b"\n") + 1]


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "replies.jsonl").write_text('{"prompt": "mine"}\n')
    with pytest.raises(HfkitError, match="choose another --output_dir"):
        ResultsFile(tmp_path / "replies.jsonl")
    assert (tmp_path / "replies.jsonl").read_text() == '{"prompt": "mine"}\n'


@pytest.mark.slow
def test_an_evaluation_of_1000_prompts_killed_in_the_middle_goes_on_without_generating_again(
    sft_dir, tmp_path, rows_file
):
    prompts = rows_file([{"prompt": f"What does number {number} like?"} for number in range(1000)])[0]["path"]
    settings = ["--prompts", prompts, "--max_prompts", "1000", "--response_length", "16"]
    folders = {name: tmp_path / name for name in ("killed", "whole")}
    command = [sys.executable, "-m", "hfkit.cli", "evaluate", str(sft_dir), *settings, "--output_dir"]
    first = subprocess.Popen([*command, str(folders["killed"])])
    replies = folders["killed"] / "replies.jsonl"
    while not replies.exists() or replies.read_bytes().count(b"\n") < 300:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = replies.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert 300 <= kept.count(b"\n") < 1000
    for folder in folders.values():
        subprocess.run([*command, str(folder)], check=True)
    assert replies.read_bytes().startswith(kept)
    assert replies.read_bytes() == (folders["whole"] / "replies.jsonl").read_bytes()
    results = [json.loads((folder / "evaluation.json").read_text())["metrics"] for folder in folders.values()]
    assert results[0] == results[1]


def test_an_engine_that_cannot_sample_from_a_model_is_refused(sft_dir, data, monkeypatch):
    given = {"model_name_or_path": str(sft_dir), "rollout_engine": "continuous"}
    load_config(EvaluateConfig, given, problems_of)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError) as error:
        load_config(EvaluateConfig, given, problems_of)
    assert [problem.key for problem in error.value.problems] == ["rollout_engine"]


@pytest.mark.slow
def test_greedy_replies_are_the_same_with_each_engine(sft_dir, tmp_path):
    replies = []
    for name in ("generate", "continuous"):
        subject = Subject("sft", str(sft_dir), rollout_engine=name)
        prompts = [subject.encode(f"What does {who} like?") for who in ("Ann", "Bob", "Cid")]
        replies.append(load_or_sample(subject, prompts, Sampling(12, 0.0), ResultsFile(tmp_path / name), 2))
    assert [reply.ids for reply in replies[0]] == [reply.ids for reply in replies[1]]


def test_responses_that_never_end_are_counted_and_a_warning(sft_dir, tmp_path, capsys):
    subject = Subject("sft", str(sft_dir))
    prompts, sampling = [subject.encode("What does Ada like?")] * 3, Sampling(1, 0.0)
    replies = load_or_sample(subject, prompts, sampling, ResultsFile(tmp_path / "replies.jsonl"), 3)
    end = subject.tokenizer.eos_token_id
    assert all(end not in reply.ids for reply in replies)
    assert "none of the 3 responses of sft ended within response_length=1" in capsys.readouterr().err
    made = [Reply(ids, "", 0.0, 0.0) for ids in ([5, 6, end], [5, 6, 7], [5, end])]
    assert have_ended(subject, made, Sampling(3, 0.0)) == [True, False, True]


def test_the_share_of_responses_that_ended_is_a_metric(sft_dir, tmp_path):
    settings = {"model_name_or_path": str(sft_dir), "max_prompts": 4, "output_dir": str(tmp_path)}
    found = evaluate(load_config(EvaluateConfig, {**settings, "response_length": 1, "temperature": 0.0}))
    assert found["metrics"]["ended"] == 0
