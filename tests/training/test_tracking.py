"""`report_to` in every stage: metrics, settings and the run's own record arrive, and no token is written anywhere."""

import json

import pytest
from quick import mostly_slow

from hfkit.records.record import read_record

STAGES = ("pretrain", "sft", "reward", "ppo")
METRIC = {"ppo": "train/objective/kl"}
SHORT = {"ppo": {"total_episodes": 4}}
TOKEN = "hf_nobodymayseethis"


@pytest.fixture
def tracked(run_stage, tmp_path, monkeypatch):
    """tracked(stage, tracker) -> the folder of a run of two steps that reports to it."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("WANDB_API_KEY", TOKEN)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)

    def run(stage: str, tracker: str):
        changes = SHORT.get(stage, {"max_steps": 2})
        return run_stage(stage, tmp_path / "runs" / stage, report_to=tracker, **changes)

    yield run
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("stage", mostly_slow(STAGES, ["sft"]))
def test_tensorboard_has_metrics_settings_and_lineage(tracked, stage):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tracked(stage, "tensorboard")
    events = reading.EventAccumulator(str(next(folder.glob("runs/*"))))
    events.Reload()
    steps = [event.step for event in events.Scalars(METRIC.get(stage, "train/loss"))]
    assert steps == ([1] if stage == "ppo" else [1, 2])
    text = events.Tensors("hfkit/text_summary")[0].tensor_proto.string_val[0].decode()
    attached = json.loads(text.removeprefix("```json\n").removesuffix("\n```"))
    assert (attached["stage"], attached["lineage"]) == (stage, read_record(folder)["lineage"])
    assert attached["config"]["learning_rate"] == read_record(folder)["config"]["learning_rate"]
    hparams = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert b"learning_rate" in hparams


def test_trackio_keeps_a_run_a_stage_on_this_machine(tracked, tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio")
    store = pytest.importorskip("trackio.sqlite_storage")
    for module in (store, trackio):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    folders = {stage: tracked(stage, "trackio") for stage in ("sft", "ppo")}
    runs = store.SQLiteStorage.get_runs("huggingface")
    assert sorted(runs) == ["runs-ppo", "runs-sft"]
    for stage, folder in folders.items():
        logs = store.SQLiteStorage.get_logs("huggingface", f"runs-{stage}")
        assert any(METRIC.get(stage, "train/loss") in log for log in logs)
        config = store.SQLiteStorage.get_run_config("huggingface", f"runs-{stage}")
        assert config["hfkit"]["lineage"] == read_record(folder)["lineage"]


def test_wandb_offline_has_a_run_a_stage(tracked, tmp_path):
    wandb = pytest.importorskip("wandb")
    for stage in ("sft", "ppo"):
        tracked(stage, "wandb")
        assert wandb.run is None
    written = [path.read_bytes() for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]
    assert len(written) == 2
    for stage, metric, content in zip(("sft", "ppo"), (b"train/loss", b"train/objective/kl"), written, strict=True):
        assert metric in content
        assert f'"stage":"{stage}"'.encode() in content.replace(b" ", b"")
