"""`hfkit curve`: one stage on growing numbers of rows, its held-out errors and their law."""

import json

import pytest
from quick import mostly_slow, slow

from hfkit.cli import main
from hfkit.core.files import read_json_mapping
from hfkit.records.record import read_record


@pytest.fixture
def words(base_dir, data, tmp_path):
    """words(stage, rows): the command line of a small curve."""

    def make(stage: str, rows: str) -> list[str]:
        settings = ["--model_name_or_path", base_dir, "--datasets", data / rows, "--test_split_size", "8"]
        settings += ["--max_length", "64", "--max_steps", "2", "--use_peft"]
        return [*map(str, ["curve", "--stage", stage, *settings, "--output_dir", tmp_path / "curve"])]

    return make


SFT = ("sft", "turns.jsonl")


@pytest.mark.parametrize(("stage", "rows"), mostly_slow([SFT, ("reward", "pairs.jsonl")], [SFT]))
@pytest.mark.parametrize("seeds", ["0", slow("01")])
def test_runs_of_each_size_and_seed_are_measured_on_their_held_out_rows(words, tmp_path, capfd, stage, rows, seeds):
    assert main([*words(stage, rows), "--sizes", "16", "8", "--seeds", *seeds]) == 0
    folder = tmp_path / "curve"
    result = read_json_mapping(folder / "curve.json")
    assert [(point["rows"], point["seed"]) for point in result["points"]] == [
        (size, int(seed)) for size in (8, 16) for seed in seeds
    ]
    for point in result["points"]:
        assert point["low"] <= point["value"] <= point["high"]
        record = read_record(folder / f"{point['rows']}-seed-{point['seed']}")
        assert (record["status"], record["config"]["seed"]) == ("done", point["seed"])
    if stage == "sft":
        assert result["points"][0]["value"] == pytest.approx(
            read_record(folder / "8-seed-0")["metrics"]["eval_loss"], abs=1e-4
        )
        assert result["law"]["rows"] == 16 and "With 32 rows" in " ".join(capfd.readouterr().out.split())
    assert (folder / "curve.png").is_file()


@pytest.mark.slow
def test_the_same_command_resumes_and_adds_sizes(words, tmp_path):
    command = words("sft", "turns.jsonl")
    assert main([*command, "--sizes", "8", "12", "--seeds", "0"]) == 0
    folder = tmp_path / "curve"
    before = read_record(folder / "8-seed-0"), (folder / "errors.jsonl").read_text()
    assert main([*command, "--sizes", "8", "12", "16", "--seeds", "0"]) == 0
    assert (read_record(folder / "8-seed-0"), (folder / "errors.jsonl").read_text().startswith(before[1])) == (
        before[0],
        True,
    )
    assert len(json.loads((folder / "curve.json").read_text())["points"]) == 3


@pytest.mark.parametrize(
    ("words_of", "reported"),
    [
        (["--stage", "ppo", "--sizes", "1", "2"], "stage: 'ppo'"),
        (["--stage", "sft", "--sizes", "8"], "--sizes: [8]"),
        (["--stage", "sft", "--sizes", "8", "0"], "--sizes: 0"),
        (["--stage", "sft", "--sizes", "8", "16"], "test_split_size: None"),
    ],
)
def test_problems_are_reported_before_training(words_of, reported, base_dir, data, tmp_path, capsys):
    given = ["--model_name_or_path", str(base_dir), "--datasets", str(data / "turns.jsonl")]
    more = ["--max_length", "64"]
    if "ppo" in words_of:
        more = ["--reward_functions", "reward_functions:length", "--max_prompt_length", "32", "--response_length", "8"]
    assert main(["curve", *words_of, *given, *more, "--output_dir", str(tmp_path / "curve")]) == 2
    assert reported in capsys.readouterr().err
    assert not (tmp_path / "curve").exists()
