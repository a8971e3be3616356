"""The estimate of many GPUs: the script reproduces the record, and the page contains its numbers."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guides" / "many_gpus.md").read_text(encoding="utf-8")
RECORD = json.loads((ROOT / "benchmarks" / "records" / "many_gpus.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("many_gpus", ROOT / "benchmarks" / "many_gpus.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_record_is_what_the_script_computes(script):
    use, phases, tokens = script.measured()
    rows = [*(one for gpu in script.GPUS for one in script.sft_rows(gpu, use)), *script.ppo_rows(phases, tokens)]
    assert RECORD["rows"] == rows
    assert not RECORD["measured"]


def test_efficiency_falls_with_the_number_of_gpus():
    for name in {one["workload"] for one in RECORD["rows"]}:
        own = [one for one in RECORD["rows"] if one["workload"] == name and one["gpu"] == "H100"]
        assert [one["gpus"] for one in own] in ([1, 8, 64, 256, 1024], [64, 256, 1024])
        efficiencies = [one["efficiency_worst"] for one in own]
        assert efficiencies == sorted(efficiencies, reverse=True) and efficiencies[0] <= 1
        assert all(one["efficiency_worst"] <= one["efficiency_best"] <= 1 for one in own)


def test_the_page_has_the_numbers_of_the_record():
    for one in RECORD["rows"]:
        if one["gpu"] == "H100" and one["gpus"] > 1:
            cells = [
                one["workload"],
                f"{one['gpus']:,}",
                f"{one['sending_seconds']:.2f} s of {one['compute_seconds']:.1f} s",
                f"{one['rollout_share']:.0%}",
                f"{one['efficiency_worst']:.2f} to {one['efficiency_best']:.2f}",
                f"{one['tokens_per_second']:,}",
                f"{one['gpu_hours_per_billion_tokens']:,.0f}",
            ]
            assert f"| {' | '.join(cells)} |" in PAGE
    for one in RECORD["sft"]:
        peaks = [f"{peak:,.0f}" for peak in one["peak_gb"]["fsdp2"]]
        assert f"| {one['model']} | {one['method']} | {' | '.join(peaks)} |" in PAGE
