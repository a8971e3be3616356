"""Differences between the processes of a launch are reported once, before loading, with rank and key."""

import os
import socket
import sys
from pathlib import Path

import pytest
from events import hang
from processes import be_command, start, wait

from hfkit.core.agreement import exchange, require_same, require_shared
from hfkit.core.errors import HfkitError
from hfkit.core.interrupts import catch_signals
from hfkit.core.joining import current_launch, joined_launch


def compare(folder: Path, output_dir: str) -> None:
    """Be a process of a launch with its own fact and folder."""
    rank = os.environ["RANK"]
    (folder / rank).mkdir()
    os.chdir(folder / rank)
    try:
        with catch_signals(), joined_launch(ends_process=True):
            require_same({"learning_rate": 0.1, "seed": 7}, "never seen")
            require_shared(Path(output_dir))
            require_same({"learning_rate": 0.1, "seed": rank, "hub_token": f"hf_{rank * 30}"}, "start them alike")
    except HfkitError as error:
        if not error.is_reported:
            print(error)
        sys.exit(error.exit_status)


def test_a_difference_names_rank_and_key_once(tmp_path):
    ranks = wait(start(compare, tmp_path, "out"))
    assert [rank.status for rank in ranks] == [2, 2]
    assert ranks[0].output == (
        "1 problem in the processes of this launch:\n"
        f"  seed: '1' -> on rank 1 ({socket.gethostname()}), but '0' on rank 0: start them alike\n"
    )
    assert ranks[1].output == "" and not (tmp_path / "0" / "out").exists()


@pytest.mark.distributed
@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_one_machine_does_not_see_is_an_error(tmp_path, monkeypatch, exists):
    if exists:
        (tmp_path / "shared").mkdir()
    machines = {"LOCAL_WORLD_SIZE": "1"}
    own = wait(start(compare, tmp_path, "../common/out" if exists else "runs/out", environment=machines))
    assert [rank.status for rank in own] == [2, 2]
    assert ("seed" in own[0].output, "output_dir" in own[0].output) == (exists, not exists)
    assert [*tmp_path.rglob("out"), *tmp_path.rglob("runs")] == [] and own[1].output == ""


def test_all_missing_variables_of_a_launcher_are_reported_at_once():
    without = {"WORLD_SIZE": "2", "RANK": "", "LOCAL_RANK": "", "MASTER_ADDR": ""}
    [alone] = wait(start(be_command, ["sft"], environment=without, world=1))
    assert alone.status == 2 and "3 problems in the environment of the launch:\n" in alone.output
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR"):
        assert f"  {name}: missing -> needed, since WORLD_SIZE is 2: launch with `accelerate launch`" in alone.output


@pytest.mark.distributed
def test_a_port_in_use_by_another_program_is_an_error():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        [alone] = wait(start(be_command, ["sft"], environment={"WORLD_SIZE": "2", "MASTER_PORT": str(port)}, world=1))
    assert alone.status == 2 and f"  MASTER_PORT: {port} -> another program" in alone.output


def wait_briefly() -> None:
    """Be a process of a launch whose second process hangs."""
    try:
        with catch_signals(ends_process=True), joined_launch(ends_process=True):
            current_launch().timeout = 1
            exchange(None)
            if os.environ["RANK"] == "1":
                hang()
            exchange(None)
    except HfkitError as error:
        print(error)
        sys.exit(error.exit_status)


@pytest.mark.distributed
def test_a_process_that_hangs_is_named():
    ranks = wait(start(wait_briefly))
    assert [rank.status for rank in ranks] == [1, 1]
    assert "rank 1 did not answer within 1 seconds: check its log, or raise ddp_timeout\n" in ranks[0].output
