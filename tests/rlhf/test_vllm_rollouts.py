"""PPO with vLLM's double: it learns from what the server samples, and a server that is lost costs nothing."""

import json
import os
import signal
import sys
import threading
import time

import pytest
from interruption import assert_same_run
from processes import launch
from quick import mostly_slow
from vllm_fixtures import forget_vllm
from vllm_server import DOUBLE

from hfkit.core.interrupts import Interrupted
from hfkit.models.engine_errors import EngineError
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record, weights_hash

STEPS = {"max_steps": 2, "save_steps": 5, "learning_rate": 5e-3, "sample_steps": 1}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "test_split_size": 2}
BOTH = {"load_in_4bit": True, "normalize_rewards": True, "bf16": True, **EVALUATED}


@pytest.fixture
def on_server(free_port):
    """on_server(server) -> the keys of a run with it."""
    group = free_port()

    def keys(server) -> dict:
        where = {"vllm_server_base_url": server.url, "vllm_group_port": group, "vllm_server_timeout": 60.0}
        return {"rollout_engine": "vllm", "vllm_mode": "server", **where}

    return keys


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, BOTH], ids=["plain", "4-bit, bf16"])
def test_a_run_whose_server_dies_goes_on_to_the_same_weights(
    run_stage, serve_vllm, on_server, base_dir, tmp_path, capsys, changes
):
    server = serve_vllm(base_dir)
    whole = run_stage("ppo", tmp_path / "whole", **STEPS, **on_server(server), **changes)
    name = "vllm.server, bf16" if changes else "vllm.server"
    assert read_record(whole)["rollout_engine"] == name
    assert len({line["reply"] for line in rollouts(whole)}) > 3
    server.stop()

    evaluates = bool(changes)  # weights are sent for the probes, and for each update, and for each evaluation
    server = serve_vllm(base_dir, how="dies", after=4 if evaluates else 3)
    with pytest.raises(EngineError, match="did not sample"):
        run_stage("ppo", tmp_path / "cut", **STEPS, **on_server(server), **changes)
    assert "checkpoint-1 is saved" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-1"]
    assert len(read_metrics(tmp_path / "cut")) == 1 + evaluates
    server = serve_vllm(base_dir)
    cut = run_stage("ppo", tmp_path / "cut", **STEPS, **on_server(server), **changes, resume_from_checkpoint=True)
    assert read_record(cut)["resumed_from"] == "checkpoint-1"
    assert_same_run(cut, whole)
    assert rollouts(cut) == rollouts(whole)


def rollouts(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_whose_server_dies_in_an_evaluation_evaluates_again(run_stage, serve_vllm, on_server, base_dir, tmp_path):
    changes = {**STEPS, **EVALUATED}
    whole = run_stage("ppo", tmp_path / "whole", **changes, **on_server(serve_vllm(base_dir)))
    cut = tmp_path / "cut"
    with pytest.raises(EngineError, match="did not sample"):
        run_stage("ppo", cut, **changes, **on_server(serve_vllm(base_dir, how="dies", after=3)))
    assert [path.name for path in cut.glob("checkpoint-*")] == ["checkpoint-1"]
    run_stage("ppo", cut, **changes, **on_server(serve_vllm(base_dir)), resume_from_checkpoint=True)
    assert_same_run(cut, whole)


@pytest.mark.slow
def test_a_signal_does_not_wait_for_a_server_that_hangs(run_stage, serve_vllm, on_server, base_dir, tmp_path):
    server = serve_vllm(base_dir, how="slow", after=3)

    def interrupt() -> None:
        while not server.requests("/v1/completions") or server.requests("/update_weights")[2:] == []:
            time.sleep(0.02)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    waiting = threading.Thread(target=interrupt, daemon=True)
    waiting.start()
    with pytest.raises(Interrupted):
        run_stage("ppo", tmp_path / "cut", **STEPS, **on_server(server))
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-1"]


@pytest.mark.parametrize("dtype", mostly_slow(["float32", "bfloat16"], ["bfloat16"]))
def test_vllm_in_the_process_of_the_run_does_what_a_server_does(
    run_stage, serve_vllm, on_server, base_dir, tmp_path, dtype
):
    changes = {**STEPS, **EVALUATED, "bf16": dtype == "bfloat16"}
    folder = run_stage("ppo", tmp_path / "server", **changes, **on_server(serve_vllm(base_dir, dtype=dtype)))
    inside = run_stage("ppo", tmp_path / "colocate", **changes, rollout_engine="vllm")
    assert read_record(inside)["rollout_engine"].startswith("vllm.colocate")
    assert_same_run(inside, folder)
    import vllm

    (llm,) = vllm.LLM.made
    assert llm.is_asleep and llm.settings == {"memory": 0.3, "tokens": 40}
    vllm.LLM.made.clear()


@pytest.mark.slow
def test_evaluations_change_no_weight(run_stage, vllm_double, tmp_path):
    changes = {**STEPS, "rollout_engine": "vllm", "bf16": True, "test_split_size": 2}
    plain = run_stage("ppo", tmp_path / "plain", **changes)
    evaluated = run_stage("ppo", tmp_path / "evaluated", **changes | EVALUATED)
    assert weights_hash(plain) == weights_hash(evaluated)
    assert rollouts(plain) == rollouts(evaluated)


def train(config, path: str, folder) -> None:
    """A rank of a run; what ends it goes to a file."""
    sys.path.insert(0, path)
    forget_vllm()  # a fork has imported TRL's client without it
    from hfkit.stages import ppo

    try:
        ppo.main(config)
    except EngineError as error:
        (folder / f"rank-{os.environ['RANK']}").write_text(str(error))


CUT = {**STEPS, **EVALUATED, "gradient_accumulation_steps": 1, "num_mini_batches": 1}
FULL = {"use_peft": False, "reward_model_path": None, "reward_functions": ["reward_functions:length"]}


@pytest.mark.distributed
def test_two_processes_share_a_server_and_lose_it_together(config_of, serve_vllm, on_server, base_dir, tmp_path):
    def run(name: str, server, **more) -> None:
        config = config_of("ppo", tmp_path / name, **CUT, **on_server(server), **more)
        launch(train, config, str(DOUBLE), tmp_path)

    server = serve_vllm(base_dir)
    run("whole", server)
    assert read_record(tmp_path / "whole")["environment"]["processes"] == 2
    # of the main process alone: probes, each update, each evaluation, and the two of the comparison at the end
    assert len(server.requests("/update_weights")) == 1 + 2 + 2 + 2
    run("cut", serve_vllm(base_dir, how="dies", after=4))
    errors = [(tmp_path / f"rank-{rank}").read_text() for rank in range(2)]
    assert all("did not sample" in error for error in errors)
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-1"]
    run("cut", serve_vllm(base_dir), resume_from_checkpoint=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.distributed
@pytest.mark.parametrize("where", ["server", "colocate"])
def test_weights_that_fsdp_shards_are_sent_whole(config_of, serve_vllm, on_server, base_dir, tmp_path, where):
    changes = {**CUT, **FULL, "model_name_or_path": str(base_dir), "learning_rate": 1e-3}
    keys = on_server(serve_vllm(base_dir)) if where == "server" else {"rollout_engine": "vllm"}
    for engine in (None, "fsdp2"):
        config = config_of("ppo", tmp_path / str(engine), **changes, **keys)
        launch(train, config, str(DOUBLE), tmp_path, engine=engine)
    assert not [*tmp_path.glob("rank-*")]
    replies = [[line["reply"] for line in rollouts(tmp_path / name)] for name in ("None", "fsdp2")]
    assert replies[0] == replies[1] and len({*replies[0]}) > 2
