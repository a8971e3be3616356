"""Pipelines: each stage starts from the output of an earlier one and runs once."""

import json
import shutil

import pytest
import yaml
from meter import ModelMeter
from pipelines import STAGES, write_pipeline
from transformers import LlamaModel

from hfkit.config.parsing import group_flags
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.records.record import read_record, weights_hash
from hfkit.stages.pipeline import run_pipeline, stage_flags
from hfkit.stages.pipeline_file import read_pipeline
from hfkit.stages.read_configs import read_configs


@pytest.fixture(scope="module")
def files(tmp_path_factory, data):
    """files(*stages, **changes) -> the path of a pipeline of conftest's tiny configs."""
    return lambda *stages, **changes: write_pipeline(tmp_path_factory.mktemp("files"), data, *stages, **changes)


@pytest.fixture(scope="module")
def chain(files):
    """The file of a pipeline of all stages and the folder of its runs, run once."""
    path = files()
    return path, run_pipeline(path)


def modification_times(root) -> dict:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_every_stage_starts_from_what_an_earlier_one_made(chain):
    _, root = chain
    records = {stage: read_record(root / stage) for stage in STAGES}
    assert {record["status"] for record in records.values()} == {"done"}
    assert records["pretrain"]["config"]["tokenizer_name_or_path"] == str(root / "tokenizer")
    starts = {
        stage: [(parent["path"], parent["weights_sha256"]) for parent in records[stage]["lineage"]] for stage in STAGES
    }
    made = {stage: (str(root / stage), weights_hash(root / stage)) for stage in STAGES}
    assert starts["sft"] == [made["pretrain"]]
    assert starts["reward"] == [made["sft"]]
    assert starts["ppo"] == [made["sft"], made["reward"]]


@pytest.mark.slow
def test_no_stage_leaves_its_models_in_memory(files):
    """Pretraining, SFT and the reward model each hold one model and none of the stage before."""
    with ModelMeter(LlamaModel) as models:
        run_pipeline(files(["tokenizer", "pretrain", "sft", "reward"]))
        assert models.most == 1 and not models.alive


def test_finished_stages_are_skipped(chain, capsys):
    path, root = chain
    before = modification_times(root)
    run_pipeline(path)
    assert capsys.readouterr().out.count("already done") == 5
    assert modification_times(root) == before


def test_an_interrupted_stage_resumes_and_the_rest_follows(chain, tmp_path, capsys):
    path, root = chain
    before = weights_hash(root / "reward")
    shutil.rmtree(root / "ppo")
    record = read_record(root / "reward") | {"status": "running"}
    (root / "reward" / "hfkit.json").write_text(json.dumps(record))
    run_pipeline(path)
    printed = capsys.readouterr().out
    assert printed.count("already done") == 3
    assert "reward: resuming from checkpoint-6" in printed
    assert weights_hash(root / "reward") == before
    assert read_record(root / "ppo")["status"] == "done"


def test_a_changed_config_is_refused_by_its_key_and_nothing_is_touched(chain):
    path, root = chain
    before = modification_times(root)
    with pytest.raises(HfkitError, match=r"learning_rate: was 0\.001, now 0\.01") as raised:
        run_pipeline(path, flags=["--sft.learning_rate", "1e-2"])
    assert str(root / "sft") in str(raised.value)
    assert modification_times(root) == before


def test_a_flag_is_for_one_stage_or_for_all(files):
    path = files(("tokenizer", "pretrain"))
    root = run_pipeline(path, flags=["--seed", "7", "--pretrain.max_steps=1", "--tokenizer.vocab_size", "300"])
    assert [read_record(root / stage)["seed"] for stage in ("tokenizer", "pretrain")] == [7, 7]
    assert read_record(root / "pretrain")["steps"] == 1
    assert read_record(root / "tokenizer")["config"]["vocab_size"] == 300


@pytest.mark.parametrize(
    ("flags", "argv"),
    [
        (["--bf16", "--seed", "1", "--sft.bf16", "false"], ["--seed", "1", "--bf16", "false"]),
        (["--no_bf16", "--sft.bf16", "--seed", "1"], ["--bf16", "--seed", "1"]),
        (["--seed=1", "--sft.seed", "2"], ["--seed", "2"]),
        (["--max-steps", "1", "--sft.max_steps=2"], ["--max_steps=2"]),
        (["--report_to", "a", "b", "--seed", "1", "--sft.report-to=c"], ["--seed", "1", "--report-to=c"]),
        (["--sft.model_name_or_path", "mine"], ["--model_name_or_path", "mine"]),
    ],
)
def test_a_flag_of_one_stage_replaces_the_same_flag_for_all_stages(files, flags, argv):
    path = files(("pretrain", "sft"))
    argvs = stage_flags(read_pipeline(path), path.parent / "runs", flags)
    own = group_flags(argvs["sft"], [])[2:]  # after output_dir and resume_from_checkpoint
    made = ("model_name_or_path", [str(path.parent / "runs" / "pretrain")])
    given = group_flags(argv, [])
    assert own == (given if "model_name_or_path" in dict(given) else [made, *given])


@pytest.mark.slow
def test_a_pipeline_can_start_from_an_existing_model(files, base_dir, tmp_path):
    path = files(("sft", "reward"), sft={"model_name_or_path": str(base_dir), "max_steps": 1}, reward={"max_steps": 1})
    root = run_pipeline(path, str(tmp_path / "mine"))
    assert root == tmp_path / "mine"
    assert read_record(root / "sft")["lineage"][0]["path"] == str(base_dir)


def test_the_problems_of_all_stages_are_reported_before_any_runs(files):
    path = files(sft={"learning_rat": 1}, reward={"max_length": -1}, ppo={"num_mini_batches": 3})
    with pytest.raises(ConfigError) as raised:
        run_pipeline(path)
    keys = [problem.key for problem in raised.value.problems]
    assert keys == ["sft.learning_rat", "reward.max_length", "ppo.num_mini_batches"]
    assert not (path.parent / "runs").exists()


def test_a_users_path_is_checked_and_the_output_of_an_earlier_stage_is_not(files):
    path = files(ppo={"num_mini_batches": 3})
    with pytest.raises(ConfigError) as raised:
        run_pipeline(path, flags=["--ppo.reward_model_path", "runs/old/rewrad"])
    assert [problem.key for problem in raised.value.problems] == ["ppo.num_mini_batches", "ppo.reward_model_path"]


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"output_dir": "out", "stages": {"sft": "none.yaml", "orpo": "orpo.yaml"}}, ["stages.sft", "stages.orpo"]),
        ({"stages": {}, "sed": 1}, ["sed", "output_dir", "stages"]),
        ({"output_dir": 3, "stages": ["sft"]}, ["output_dir", "stages"]),
    ],
)
def test_the_problems_of_the_pipelines_own_file_are_reported(tmp_path, content, keys):
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ConfigError) as raised:
        run_pipeline(tmp_path / "pipeline.yaml")
    assert [problem.key for problem in raised.value.problems] == keys


@pytest.mark.parametrize("flags", [["--ppo.seed", "1"], ["seed", "1"]])
def test_a_flag_that_fits_nowhere_is_refused(files, flags):
    with pytest.raises(ConfigError):
        run_pipeline(files(("tokenizer",)), flags=flags)


@pytest.fixture
def layered(tmp_path, data, base_dir):
    """layered(name, **content) writes a YAML, in a folder with a pipeline `base/all.yaml` of layers to extend."""

    def write(name: str, **content):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(yaml.safe_dump(content, sort_keys=False))
        return tmp_path / name

    rows = [{"path": str(data / "turns.jsonl")}]
    write("base/sft.yaml", datasets=rows, max_length=64, learning_rate=1e-4, lora_r=4)
    write("base/lora.yaml", use_peft=True, lora_r=8, model_name_or_path=str(base_dir))
    write("base/all.yaml", output_dir="below", stages={"sft": ["sft.yaml", "lora.yaml", {"seed": 7}]})
    return write


def test_later_layers_replace_keys_of_earlier_ones(layered):
    path = layered("mine.yaml", extends="base/all.yaml", output_dir="mine", stages={"sft": {"learning_rate": 2e-4}})
    config = read_configs(str(path), None, None, ["--sft.seed", "8"])["sft"]
    assert (config.max_length, config.lora_r, config.learning_rate) == (64, 8, 2e-4)
    assert (config.output_dir, config.seed) == ("mine/sft", 8)
    assert read_configs(str(path.parent / "base/all.yaml"), None, None, [])["sft"].output_dir == "below/sft"


def test_of_several_pipelines_the_last_is_on_top(layered):
    layered("short.yaml", stages={"sft": {"max_length": 32, "lora_r": 2}})
    path = layered("mine.yaml", extends=["base/all.yaml", "short.yaml"], stages={"sft": {"lora_r": 3}})
    config = read_configs(str(path), None, None, [])["sft"]
    assert (config.output_dir, config.max_length, config.lora_r) == ("below/sft", 32, 3)


def test_a_problem_names_the_file_with_its_value(layered, tmp_path):
    lora = layered("base/lora.yaml", use_peft=True, lora_r=0, load_in_8bit=True)
    path = layered("mine.yaml", extends="base/all.yaml", stages={"sft": {"model_name_or_path": "x", "seeed": 1}})
    with pytest.raises(ConfigError) as raised:
        read_configs(str(path), None, None, ["--sft.max_length", "0", "--sft.load_in_4bit"])
    files = {problem.key: problem.file for problem in raised.value.problems}
    assert files == {
        "sft.seeed": str(path),
        "sft.max_length": "",  # of a flag
        "sft.lora_r": str(lora),
        "sft.load_in_8bit": str(lora),
        "sft.model_name_or_path": str(path),
    }
    assert f"sft.lora_r: 0 -> must be above 0 (in {lora})" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"extends": "none.yaml"}, "extends: 'none.yaml' -> no such file in "),
        ({"extends": ["base/all.yaml", "mine.yaml"]}, "extends: 'mine.yaml' -> remove it: mine.yaml would extend"),
        ({"extends": "circle.yaml"}, "extends: 'mine.yaml' -> remove it: circle.yaml would extend itself (in "),
        ({"extends": {"a": 1}}, "extends: {'a': 1} -> expected the YAML of a pipeline, or a list of these"),
        ({"extends": "broken.yaml", "output_dir": "mine"}, "config: '"),
        ({"extends": "base/all.yaml", "stages": {"sft": [["a.yaml"]]}}, "stages.sft[0]: ['a.yaml'] -> expected the"),
        ({"extends": "base/all.yaml", "stages": {"sft": ["a.yaml"]}}, "stages.sft[0]: 'a.yaml' -> no such file in "),
        ({"extends": "base/all.yaml", "stages": {"sft": None}}, "stages.sft: None -> expected the stage's YAML file"),
        ({"extends": "wrong.yaml"}, "sed: 1 -> unknown; a pipeline has only extends, output_dir, stages, rounds (in "),
        ({"extends": "part.yaml"}, "output_dir: missing -> expected the folder that the stages write to"),
    ],
)
def test_problems_of_layers_are_reported(layered, tmp_path, content, problem):
    layered("circle.yaml", extends="mine.yaml")
    layered("wrong.yaml", extends="base/all.yaml", sed=1)
    layered("part.yaml", stages={"sft": "base/sft.yaml"})
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError) as raised:
        read_configs(str(layered("mine.yaml", **content)), None, None, [])
    assert problem in str(raised.value)
    assert len(raised.value.problems) == 1


def test_an_invalid_yaml_of_a_stage_is_reported_with_all_other_problems(layered, tmp_path):
    path = layered("mine.yaml", extends="base/all.yaml", stages={"sft": {"lora_r": 0}})
    (tmp_path / "base/sft.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"sft.config: .*sft.yaml:1' -> not valid YAML"):
        run_pipeline(path)


def test_a_key_that_a_stages_file_has_twice_is_reported_with_the_file(layered, tmp_path):
    path = layered("mine.yaml", extends="base/all.yaml")
    (tmp_path / "base/lora.yaml").write_text("lora_r: 8\nlora_r: 4\n")
    with pytest.raises(ConfigError, match=r"sft.lora_r: 4 -> given twice, on lines 1 and 2.* \(in .*lora.yaml\)"):
        run_pipeline(path)
