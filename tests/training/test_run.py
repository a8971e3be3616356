"""One folder a run: done runs are kept, other runs are refused by name, and nothing that is there is ever lost."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from merging import edit
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from hfkit.cli import main
from hfkit.core.console import warn
from hfkit.core.errors import HfkitError
from hfkit.core.files import RECORD
from hfkit.records.record import read_record
from hfkit.stages import sft
from hfkit.training.checkpoints import last_complete_checkpoint
from hfkit.training.run import Run


def state_of(folder: Path) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def done(tokenizer_dir, tmp_path) -> Path:
    """A copy of a finished tokenizer run."""
    return Path(shutil.copytree(tokenizer_dir, tmp_path / "done"))


def test_a_finished_run_is_left_as_it_is(run_stage, done, capsys):
    before = state_of(done)
    assert run_stage("tokenizer", done) == done
    assert capsys.readouterr().out.splitlines()[-1] == f"tokenizer: already done in {done}"
    assert state_of(done) == before
    edit(done / "hfkit.json", stopped="KL 30 exceeds max_kl")
    assert run_stage("tokenizer", done) == done
    reason = "stopped early: KL 30 exceeds max_kl"
    assert capsys.readouterr().out.splitlines()[-1] == f"tokenizer: already done in {done}, {reason}"
    assert main(["lineage", str(done)]) == 0
    assert reason in capsys.readouterr().out


def test_other_settings_are_refused_by_name(run_stage, done):
    before = state_of(done)
    with pytest.raises(HfkitError) as reported:
        run_stage("tokenizer", done, vocab_size=300, seed=7)
    assert "  seed: was 42, now 7\n" in str(reported.value)
    assert "  vocab_size: was 400, now 300\n" in str(reported.value)
    assert "--output_dir" in str(reported.value)
    assert state_of(done) == before


def test_other_rows_in_a_file_of_the_same_name_are_refused(run_stage, tmp_path, rows_file):
    datasets = rows_file([{"text": "Ann likes red."}])
    folder = run_stage("tokenizer", tmp_path / "out", datasets=datasets)
    before = state_of(folder)
    rows_file([{"text": "Bob likes blue."}])
    with pytest.raises(HfkitError, match=r"datasets \(their rows\)"):
        run_stage("tokenizer", folder, datasets=datasets)
    assert state_of(folder) == before


def test_other_weights_to_start_from_are_refused(run_stage, tmp_path, base_dir, run_of_one_step):
    base = shutil.copytree(base_dir, tmp_path / "base")
    folder = run_of_one_step("sft", tmp_path / "out", model_name_or_path=str(base))
    weights = load_file(base / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(HfkitError, match="weights of the starting model"):
        run_of_one_step("sft", folder, model_name_or_path=str(base))


@pytest.fixture
def run_of_one_step(run_stage):
    return lambda stage, folder, **changes: run_stage(stage, folder, max_steps=1, **changes)


def test_a_record_keeps_what_was_warned_of(run_of_one_step, tmp_path, base_dir, capsys):
    folder = run_of_one_step("reward", tmp_path / "out", model_name_or_path=str(base_dir))
    reported = [line.removeprefix("warning: ") for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert json.loads((folder / RECORD).read_text())["warnings"] == reported
    assert "learns more from the SFT model" in reported[0]


def test_the_run_of_another_stage_is_refused(run_of_one_step, done):
    with pytest.raises(HfkitError, match="stage: was 'tokenizer', now 'pretrain'"):
        run_of_one_step("pretrain", done)


def test_a_folder_of_something_else_is_refused(run_stage, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(HfkitError, match=r"is not empty and has no hfkit\.json"):
        run_stage("tokenizer", tmp_path)
    assert state_of(tmp_path) == {"thesis.txt": b"years of work"}


def test_files_of_a_crash_before_the_first_record_do_not_block_a_run(run_stage, tmp_path):
    (tmp_path / ".hfkit.json.12345.tmp").write_text('{"stage": "tok')
    run_stage("tokenizer", tmp_path)
    assert json.loads((tmp_path / "hfkit.json").read_text())["status"] == "done"


def test_an_empty_folder_is_taken(run_stage, tmp_path):
    assert (run_stage("tokenizer", tmp_path) / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (ZeroDivisionError, {"status": "failed", "error": "ZeroDivisionError"}),
        (KeyboardInterrupt, {"status": "interrupted", "signal": "SIGINT"}),
    ],
)
def test_a_failed_run_says_so_and_can_be_run_again(config_of, run_stage, tmp_path, error, ended):
    run = Run("tokenizer", config_of("tokenizer", tmp_path / "out"), {}, [])
    with pytest.raises(error), run.training():
        raise error
    record = json.loads((tmp_path / "out" / "hfkit.json").read_text())
    assert record.items() >= ended.items()
    assert not Run("tokenizer", config_of("tokenizer", tmp_path / "out"), {}, []).is_done


def test_an_artefact_appears_whole_under_its_final_name(config_of, tmp_path):
    run = Run("tokenizer", config_of("tokenizer", tmp_path / "out"), {}, [])

    def save(folder):
        (folder / "weights").write_text("new")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"), run.training():
        run.publish(save, {})
    assert not (tmp_path / "out" / "weights").exists()
    with run.training():
        run.publish(lambda folder: (folder / "weights").write_text("new"), {"loss": 1.0})
    assert (tmp_path / "out" / "weights").read_text() == "new"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"weights", "hfkit.json", "README.md"}


def test_a_publication_that_was_interrupted_is_made_again(config_of, tmp_path):
    def save(folder):
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tools.jinja").write_text("new")

    left = tmp_path / "out" / "additional_chat_templates"
    run = Run("tokenizer", config_of("tokenizer", tmp_path / "out"), {}, [])
    with run.training():
        left.mkdir()
        (left / "rag.jinja").write_text("old")
        run.publish(save, {})
    assert [path.name for path in left.iterdir()] == ["tools.jinja"]
    assert json.loads((tmp_path / "out" / RECORD).read_text())["status"] == "done"


def test_the_last_complete_checkpoint_is_the_newest_with_a_readable_state(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    for step, state in ((2, "{}"), (9, "{}"), (10, "{}"), (11, '{"global_'), (12, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.pt"):
            torch.save({}, folder / name)
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-10"


def test_a_failed_run_without_a_checkpoint_may_restart_with_other_settings(run_of_one_step, tmp_path):
    folder = tmp_path / "sft"
    run_of_one_step("sft", folder)
    record = json.loads((folder / RECORD).read_text())
    for file in folder.iterdir():
        if file.name != RECORD:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    (folder / RECORD).write_text(json.dumps({**record, "status": "failed"}))
    run_of_one_step("sft", folder, learning_rate=0.123)
    assert json.loads((folder / RECORD).read_text())["config"]["learning_rate"] == 0.123


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_whose_exception_was_discarded_stops_after_a_checkpoint(config_of, monkeypatch, tmp_path):
    config = config_of("sft", tmp_path / "out")

    class Press(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            class Discards:
                def __del__(self):
                    signal.raise_signal(signal.SIGINT)

            Discards()

    own = sft.set_callbacks
    monkeypatch.setattr(sft, "set_callbacks", lambda trainer, run, *more: own(trainer, run, *more, Press()))
    with pytest.raises(KeyboardInterrupt):
        sft.main(config)
    record = read_record(tmp_path / "out")
    assert (record["status"], record["signal"]) == ("interrupted", "SIGINT")
    assert last_complete_checkpoint(tmp_path / "out").name == "checkpoint-1"


def test_warnings_from_before_a_run_are_not_in_its_record(run_stage, tmp_path):
    warn("about something else")
    folder = run_stage("tokenizer", tmp_path / "out")
    assert read_record(folder)["warnings"] == []
