"""`push_to_hub` in the stages: the repositories of a pipeline, checkpoints, and a Hub that is down."""

import json
import shlex

import pytest
import yaml
from pipelines import write_pipeline

from hfkit.config.stages import SFTConfig, TokenizerConfig
from hfkit.records.record import read_record, weights_hash
from hfkit.stages.checks.hub import hub_problems
from hfkit.stages.pipeline import stage_flags
from hfkit.stages.pipeline_file import read_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def pipeline(folder, data):
    """The YAML of a pipeline of all five stages, tiny."""
    return write_pipeline(folder, data)


@pytest.fixture(scope="module")
def ann(user_of):
    return user_of("ann")


@pytest.fixture(scope="module")
def runs(ann, pipeline, folder):
    """The five stages, run and pushed."""
    hub = ["--push_to_hub", "--hub_model_id", "ann/tiny", "--hub_private_repo", "false"]
    ran = ann.hfkit("run", pipeline, "--output_dir", folder / "runs", *hub)
    assert ran.status == 0, ran.stderr
    return folder / "runs"


def test_a_pipeline_makes_four_repositories_of_one_lineage(runs, hub_server, user_of):
    commits = {}
    for name in ("pretrain", "sft", "reward", "ppo"):
        repo = hub_server.store.repo(f"ann/tiny-{name}")
        assert not repo.private
        assert [commit.title for commit in repo.history()] == [f"hfkit push: {name}", "initial commit"]
        commits[name] = repo.branches["main"]
    assert len(hub_server.store.repos) == 4
    ran = user_of("bob").hfkit("lineage", "ann/tiny-ppo")  # who has nothing but the Hub
    assert ran.status == 0
    lines = [line.lstrip("│├└─ \xa0") for line in ran.stdout.splitlines()]
    weights = {name: weights_hash(runs / name)[:12] for name in commits}
    base = f"ann/tiny-pretrain at {commits['pretrain'][:12]}"
    assert lines[0] == f"ppo: ann/tiny-ppo at {commits['ppo'][:12]}, seed 42"
    assert f"on the base: {base}, weights {weights['pretrain']}" in lines
    assert f"start: ann/tiny-sft at {commits['sft'][:12]} (sft), weights {weights['sft']}, seed 42" in lines
    assert f"start: {base} (pretrain), weights {weights['pretrain']}, seed 42" in lines
    assert f"reward: ann/tiny-reward at {commits['reward'][:12]}, weights {weights['reward']}, seed 42" in lines
    assert "not there" not in ran.stdout
    assert "not on the Hub" not in ran.stdout


@pytest.fixture(scope="module")
def sft(runs, ann, folder):
    """sft(name, *flags): SFT on the base of `runs`, into a folder of that name, to be pushed."""

    def run(name: str, *flags: str):
        start = [f"--config={folder}/sft.yaml", "--model_name_or_path", runs / "pretrain"]
        return ann.hfkit("sft", *start, "--output_dir", folder / name, "--push_to_hub", *flags)

    return run


@pytest.fixture(scope="module")
def each(sft):
    """SFT whose checkpoints are pushed: `ann/each`."""
    ran = sft("each", "--hub_strategy", "every_save")
    assert ran.status == 0, ran.stderr


@pytest.mark.slow
def test_every_save_pushes_checkpoints_and_does_not_change_training(runs, each, folder, hub_server):
    repo = hub_server.store.repo("ann/each")
    assert repo.private
    assert [commit.title for commit in repo.history()] == ["hfkit push: sft", "step 6", "step 3", "initial commit"]
    step = repo.history()[2]
    record = json.loads(step.files["hfkit.json"].content)
    assert (record["status"], record["base"]["path"]) == ("running", "ann/tiny-pretrain")
    assert {"adapter_model.safetensors", "tokenizer.json", "README.md"} <= {*step.files}
    assert not any("optimizer" in name or "checkpoint" in name for name in step.files)
    weights = [commit.files["adapter_model.safetensors"].sha256 for commit in repo.history()[:3]]
    assert weights[2] != weights[1] == weights[0] == weights_hash(runs / "sft")
    assert not [*(folder / "each").glob(".hub*")]


@pytest.mark.slow
def test_training_continues_without_the_hub_and_prints_push_commands(ann, pipeline, folder, hub_server, healed):
    stages = {stage: f"{stage}.yaml" for stage in ("tokenizer", "pretrain", "sft")}
    (folder / "down.yaml").write_text(yaml.safe_dump({"output_dir": "down", "stages": stages}))
    healed.set(503)
    push = ["--push_to_hub", "--hub_model_id", "ann/late", "--hub_private_repo", "--hub_strategy", "every_save"]
    ran = ann.hfkit("run", folder / "down.yaml", "--output_dir", folder / "down", *push)
    assert ran.status == 0
    assert [read_record(folder / "down" / stage)["status"] for stage in stages] == ["done"] * 3
    for reported in (
        "warning: step 3 was not pushed, training continues: the Hub cannot be reached: ",
        "warning: the run is done, but was not pushed: the Hub cannot be reached: ",
        f"warning: the base {folder}/down/pretrain is not on the Hub",
    ):
        assert reported in ran.stderr
    assert "Traceback" not in ran.stderr
    commands = [line.strip() for line in ran.stderr.splitlines()[-2:]]
    assert commands == [f"hfkit push {folder}/down/{name} ann/late-{name} --private" for name in ("pretrain", "sft")]
    assert not any("late" in name for _, name in hub_server.store.repos)
    healed.heal()
    for command in commands:
        ran = ann.hfkit(*shlex.split(command)[1:])
        assert ran.status == 0, ran.stderr
    uploaded = hub_server.store.repo("ann/late-sft").files()["adapter_model.safetensors"]
    assert uploaded == (folder / "down" / "sft" / "adapter_model.safetensors").read_bytes()


def test_running_a_finished_stage_again_pushes_it(sft, each, hub_server):
    ran = sft("each", "--hub_model_id", "ann/elsewhere")
    assert "already done" in ran.stdout
    assert ("model", "ann/elsewhere") in hub_server.store.repos


def test_problems_of_a_push_are_reported_before_training(sft, ann, folder):
    token = ann.python("import os; answer = os.environ.pop('HF_TOKEN')")
    ran = sft("never", "--hub_model_id", "a/b/c", "--hub_revision", "a..b")
    ann.python(f"import os; os.environ['HF_TOKEN'] = {token!r}")
    assert ran.status == 2
    assert "push_to_hub: True -> not logged in: run `hf auth login`, or set HF_TOKEN" in ran.stderr
    assert "hub_model_id: 'a/b/c' -> not a repository name" in ran.stderr
    assert "hub_revision: 'a..b' -> not a valid name of a branch" in ran.stderr
    assert not (folder / "never").exists()


def test_the_token_is_in_no_file_of_a_run(runs, ann, folder, hub_server):
    files = [file for root in (folder, ann.home) for file in root.rglob("*") if file.is_file()]
    assert len(files) > 40
    assert [file for file in files if ann.token.encode() in file.read_bytes()] == []
    assert not any(ann.token in line for line in ann.outputs)
    uploaded = [content for repo in hub_server.store.repos.values() for content in repo.files().values()]
    assert not any(ann.token.encode() in content for content in uploaded)
    assert hub_server.leaks == []


def test_settings_without_effect_are_reported():
    problems = hub_problems(SFTConfig(output_dir="x", hub_model_id="a/b", hub_strategy="every_save"))
    assert [problem.key for problem in problems] == ["hub_model_id", "hub_strategy"]
    assert {problem.remedy for problem in problems} == {"has no effect without push_to_hub: true"}
    problems = [str(problem) for problem in hub_problems(TokenizerConfig(output_dir="x", push_to_hub=True))]
    assert problems == ["push_to_hub: True -> the environment sets HF_HUB_OFFLINE: unset it, or remove push_to_hub"]


def test_a_folder_that_a_stage_will_write_is_not_looked_up_on_the_hub(pipeline, ann, hub_server):
    ran = ann.hfkit("run", pipeline, "--output_dir", "mine", "--ppo.num_mini_batches", "3")
    assert ran.status == 2
    problems = ran.stderr.splitlines()[1:]
    assert [line.split(":")[0].strip() for line in problems] == ["ppo.num_mini_batches"]
    assert not any("mine/" in request.path for request in hub_server.log)


def test_hub_flags_of_a_pipeline_apply_to_its_models(pipeline, folder):
    flags = ["--push_to_hub", "--hub-model-id=ann/x", "--seed", "1", "--tokenizer.push_to_hub"]
    argvs = stage_flags(read_pipeline(pipeline), folder / "runs", flags)
    assert argvs["tokenizer"][-2:] == ["--seed=1", "--push_to_hub"]
    assert argvs["ppo"][-3:] == ["--push_to_hub", "--hub_model_id=ann/x-ppo", "--seed=1"]
