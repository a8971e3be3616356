"""What users and machines get wrong: each is refused in words, before anything is lost, and nothing passes unseen."""

import fcntl
import gzip
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hfkit.cli import main
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.models.loading import load_base, load_policy
from hfkit.stages.pipeline import run_pipeline
from hfkit.training.checkpoints import checkpoint_fault

TURN = json.dumps({"prompt": "What does Ann like?", "response": "red."}) + "\n"
DOCUMENT = json.dumps({"text": "Ann likes red. The colour of Ann is red."}) + "\n"
PAIR = {"prompt": "What?", "chosen": "red", "rejected": "blue"}


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def copy(tmp_path):
    return lambda folder: Path(shutil.copytree(folder, tmp_path / f"copy-{folder.name}"))


@pytest.mark.parametrize(
    ("name", "content", "raised"),
    [
        ("empty.jsonl", b"", "it is empty"),
        ("cut.jsonl.gz", gzip.compress(TURN.encode() * 30, mtime=0)[:50], "EOFError"),
        ("broken.jsonl", TURN.encode() * 30 + b'{"prompt": "x", "resp\n' + TURN.encode(), "line 31: JSONDecodeError"),
        (
            "latin.jsonl",
            TURN.encode() * 30 + b'{"prompt": "caf\xe9", "response": "x"}\n',
            "line 31: UnicodeDecodeError",
        ),
        ("latin.txt", b"one\ncaf\xe9 x\n", "line 2: UnicodeDecodeError"),
        ("utf16.jsonl", TURN.encode("utf-16"), "line 1: UnicodeDecodeError"),
        ("numbers.jsonl", b'{"prompt": 3, "response": 4}\n' * 30, "the column 'prompt' holds int64"),
    ],
)
def test_a_file_that_cannot_be_read_is_reported_with_its_line(run_stage, tmp_path, name, content, raised):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HfkitError, match=raised):
        run_stage("sft", tmp_path / "out", datasets=[{"path": str(tmp_path / name)}])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["tokenizer", "pretrain"])
@pytest.mark.parametrize(("value", "raised"), [(3, "holds int64"), (None, "No row has text:"), (["a"], "holds List")])
def test_a_text_column_without_text_is_refused(run_stage, tmp_path, rows_file, stage, value, raised):
    with pytest.raises(HfkitError, match=raised):
        run_stage(stage, tmp_path / "out", datasets=rows_file([{"text": value}] * 30))


def test_a_tokenizer_is_trained_around_missing_texts(run_stage, tmp_path, rows_file):
    folder = run_stage(
        "tokenizer", tmp_path / "out", datasets=rows_file([*[{"text": "Ann likes red."}] * 9, {"text": None}])
    )
    assert json.loads((folder / "hfkit.json").read_text())["data"]["train"]["dropped"] == {"empty": 1}


@pytest.mark.parametrize(
    ("stage", "row", "raised"),
    [
        ("sft", {"messages": ["x", "y"]}, "neither text nor messages"),
        ("sft", {"messages": [{"who": "human", "value": "x"}]}, "neither text nor messages"),
        ("reward", PAIR | {"margin": "big"}, "'margin' holds string, expected numbers"),
        ("reward", PAIR | {"chosen": 1, "rejected": 2}, "'chosen' holds int64"),
        ("ppo", {"prompt": 3}, "'prompt' holds int64"),
    ],
)
def test_a_row_of_another_kind_is_reported(run_stage, tmp_path, rows_file, stage, row, raised):
    with pytest.raises(HfkitError, match=raised):
        run_stage(stage, tmp_path / "out", datasets=rows_file([row] * 30))


@pytest.mark.parametrize(
    ("columns", "raised"),
    [({"promt": "prompt"}, r"map to \['promt'\]"), ({"prompt": "response", "response": "response"}, "twice")],
)
def test_columns_mapped_to_nothing_are_refused(run_stage, tmp_path, data, columns, raised):
    with pytest.raises(HfkitError, match=raised):
        run_stage("sft", tmp_path / "out", datasets=[{"path": str(data / "turns.jsonl"), "columns": columns}])


@pytest.mark.parametrize("size", [32, 500, 0.999])
def test_a_split_that_leaves_nothing_is_refused(run_stage, tmp_path, size):
    with pytest.raises(HfkitError, match="leaves no training row of 32 rows"):
        run_stage("sft", tmp_path / "out", test_split_size=size)


@pytest.mark.parametrize(
    ("stage", "changes", "key"),
    [
        *[("sft", {key: value}, key) for key, value in (
            ("max_steps", 0), ("max_steps", -5), ("eval_steps", 0), ("seed", -1), ("seed", 2**40), ("warmup_steps", -3),
            ("weight_decay", -1.0), ("dataset_num_proc", 0), ("max_dropped", 5.0), ("lora_dropout", -1.0),
            ("test_split_size", 1.5), ("save_steps", 1.5), ("logging_steps", 2.5), ("load_best_model_at_end", True),
            ("optim", "nonsense"), ("lr_scheduler_type", "nonsense"), ("report_to", "nonsense"), ("deepspeed", "x"),
            ("lora_target_modules", []), ("model_revision", "v2"), ("hub_token", "hf_secret"), ("tf32", True),
        )],
        ("ppo", {"total_episodes": 0}, "total_episodes"),
        ("ppo", {"cliprange": -1.0}, "cliprange"),
        ("ppo", {"gamma": 5.0}, "gamma"),
        ("tokenizer", {"vocab_size": 10}, "vocab_size"),
        ("tokenizer", {"vocab_size": -10}, "vocab_size"),
        ("tokenizer", {"min_frequency": -1}, "min_frequency"),
        ("tokenizer", {"chat_template": "nowhere.jinja"}, "chat_template"),
        ("pretrain", {"model_config": {"model_type": "llama", "vocab_size": 50}}, "model_config.vocab_size"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_reported_before_the_folder_is_made(config_of, tmp_path, stage, changes, key):
    with pytest.raises(ConfigError) as raised:
        config_of(stage, tmp_path / "out", **changes)
    assert [problem.key for problem in raised.value.problems] == [key]
    assert "secret" not in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("template", [b"{% for m in messages %}{{ m.nope", b"\xff\xfe\x00"])
def test_a_chat_template_that_is_none_is_refused(config_of, tmp_path, template):
    (tmp_path / "chat.jinja").write_bytes(template)
    with pytest.raises(ConfigError, match="chat_template: "):
        config_of("tokenizer", tmp_path / "out", chat_template=str(tmp_path / "chat.jinja"))


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_file_for_an_output_folder_is_refused(config_of, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"output_dir: .* is not a writable folder"):
        config_of("tokenizer", f"{tmp_path / 'file'}{below}")


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_reward_model_is_refused_as_a_policy(config_of, tmp_path, reward_dir, stage):
    with pytest.raises(ConfigError, match="start from a language model"):
        config_of(stage, tmp_path, model_name_or_path=str(reward_dir), lora_r=None)


@pytest.mark.parametrize("change", [{"lora_target_modules": ["q_proj"]}, {"use_rslora": True}])
def test_an_adapter_keeps_its_shape(config_of, tmp_path, sft_dir, change):
    with pytest.raises(ConfigError, match="the adapter that training starts from has"):
        config_of("reward", tmp_path, **change)


def test_an_adapter_without_its_base_is_reported_by_name(config_of, tmp_path, sft_dir, copy):
    folder = copy(sft_dir)
    edit(folder / "adapter_config.json", base_model_name_or_path="/gone/model")
    with pytest.raises(ConfigError, match="its base '/gone/model' does not exist"):
        config_of("reward", tmp_path / "out", model_name_or_path=str(folder))


def test_an_unfinished_run_is_refused_as_a_model(config_of, tmp_path, base_dir, copy):
    folder = copy(base_dir)
    edit(folder / "hfkit.json", status="failed")
    with pytest.raises(ConfigError, match=r"a run that is not done \(failed\)"):
        config_of("sft", tmp_path / "out", model_name_or_path=str(folder))


def test_a_tokenizer_of_another_model_is_refused(config_of, tmp_path, base_dir, copy):
    folder = copy(base_dir)
    edit(folder / "config.json", vocab_size=300)
    with pytest.raises(ConfigError, match="has ids up to 317, but the model's embedding has only 300 rows"):
        config_of("sft", tmp_path / "out", model_name_or_path=str(folder))


def test_code_that_comes_with_a_model_is_not_even_offered(config_of, tmp_path, base_dir, copy, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code of the model"))
    folder = copy(base_dir)
    edit(
        folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}, tokenizer_class="EvilTokenizer"
    )
    edit(folder / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}, model_type="evil")
    (folder / "evil.py").write_text("raise SystemExit('code was run')")
    with pytest.raises(ConfigError, match=r"config.json cannot be read: ValueError: .* custom code"):
        config_of("sft", tmp_path / "out", model_name_or_path=str(folder))
    with pytest.raises(HfkitError, match=r"cannot be read: ValueError: .* custom code"):
        load_base(str(folder))


@pytest.mark.parametrize(
    ("harm", "reported"),
    [("missing", "lacks 1 weights"), ("truncated", "cannot load"), ("reshaped", "has 1 weights whose shapes differ")],
)
def test_weights_that_are_not_whole_are_refused(base_dir, copy, harm, reported):
    file = copy(base_dir) / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "layers.1" in name)
    if harm == "truncated":
        os.truncate(file, 5000)
    else:
        weights |= {name: weights[name][:1].contiguous()}
        save_file({k: v for k, v in weights.items() if harm != "missing" or k != name}, file, {"format": "pt"})
    with pytest.raises(HfkitError, match=reported):
        load_base(str(file.parent))


def test_an_adapter_comes_from_safetensors_alone(sft_dir, copy):
    folder = copy(sft_dir)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(HfkitError, match="loads adapters only from safetensors"):
        load_policy(str(folder))


def test_weights_that_went_to_nan_are_not_published(run_stage, tmp_path, base_dir, copy):
    file = copy(base_dir) / "model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(HfkitError, match="not finite"):
        run_stage("sft", tmp_path / "out", model_name_or_path=str(file.parent), max_steps=1)
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_a_run_without_a_step_is_not_published(run_stage, tmp_path):
    with pytest.raises(HfkitError, match="no step was taken"):
        run_stage("sft", tmp_path / "out", dataloader_drop_last=True, per_device_train_batch_size=500)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("harm", ["truncated", "missing"])
def test_a_checkpoint_that_broke_is_left_out(sft_dir, copy, name, harm):
    checkpoint = copy(sft_dir) / "checkpoint-6"
    assert checkpoint_fault(checkpoint) is None
    if harm == "missing":
        (checkpoint / name).unlink()
    else:
        os.truncate(checkpoint / name, 50)
    assert harm in checkpoint_fault(checkpoint)


@pytest.mark.parametrize("record", ["[]", '"x"', "{", ""])
def test_a_record_that_is_none_is_not_written_over(run_stage, tokenizer_dir, copy, record):
    folder = copy(tokenizer_dir)
    (folder / "hfkit.json").write_text(record)
    with pytest.raises(HfkitError, match=r"is not empty and has no hfkit\.json"):
        run_stage("tokenizer", folder)
    assert (folder / "hfkit.json").read_text() == record


def test_a_second_process_is_kept_out(run_stage, tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(HfkitError, match="another process is training into"):
        run_stage("tokenizer", tmp_path)
    os.close(handle)
    assert (run_stage("tokenizer", tmp_path) / "tokenizer.json").is_file()


def test_a_full_disk_is_reported(config_of, tmp_path):
    from hfkit.training.run import Run

    run = Run("tokenizer", config_of("tokenizer", tmp_path / "out"), {}, [])
    with pytest.raises(HfkitError, match="no space left"), run.training():
        raise OSError(28, "No space left on device")


@pytest.fixture
def pipeline(tmp_path, data):
    (tmp_path / "sft.yaml").write_text(f"datasets: [{{path: {data / 'turns.jsonl'}}}]\nuse_peft: true\n")
    (tmp_path / "p.yaml").write_text(f"output_dir: {tmp_path / 'out'}\nstages: {{sft: sft.yaml}}\n")
    return tmp_path / "p.yaml"


def test_every_flag_that_a_pipeline_cannot_use_is_reported(pipeline):
    with pytest.raises(ConfigError) as raised:
        run_pipeline(pipeline, flags=["--nope.x", "1", "--sft.output_dir", "/tmp/x", "--ppo.kl_coef", "0"])
    assert [problem.key for problem in raised.value.problems] == ["--nope.x", "--sft.output_dir", "--ppo.kl_coef"]


def test_a_field_of_the_trainer_that_fails_is_named(run_stage, tmp_path):
    remedy = r"passes gradient_checkpointing_kwargs to the trainer unchecked: check whether this key is the cause"
    with pytest.raises(HfkitError, match=remedy):
        settings = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"nope": 1}}
        run_stage("sft", tmp_path / "out", **settings)


def broken(name: str, content: bytes | str | dict):
    """Return an edit of a model's folder: a file's new content, or the keys that change in it."""

    def apply(folder: Path) -> None:
        if isinstance(content, dict):
            edit(folder / name, **content)
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return apply


@pytest.mark.parametrize(
    ("kind", "apply", "raised"),
    [
        ("base", broken("config.json", b"\xff\xfe"), "config.json cannot be read"),
        ("base", broken("config.json", "[1]"), "config.json cannot be read"),
        ("base", broken("config.json", "{}"), "config.json cannot be read"),
        ("base", broken("config.json", {"hidden_size": "big"}), "config.json cannot be read"),
        ("base", broken("config.json", {"vocab_size": None}), "config.json cannot be read"),
        ("base", broken("config.json", {"model_type": "nothing"}), "config.json cannot be read"),
        (
            "base",
            broken("tokenizer.json", "[]"),
            "the tokenizer of .* cannot be used: tokenizer.json is not a JSON mapping",
        ),
        ("base", broken("tokenizer_config.json", "nothing"), "cannot be used: tokenizer_config.json is not valid JSON"),
        ("base", broken("tokenizer_config.json", {"eos_token": 3}), "the tokenizer of .* cannot be read"),
        ("sft", broken("adapter_config.json", {"base_model_name_or_path": 3}), "base_model_name_or_path in .* is 3"),
        ("sft", broken("adapter_config.json", {"r": "x"}), "r in adapter_config.json is 'x', not of type int"),
        ("sft", broken("adapter_config.json", {"target_modules": 3}), "target_modules in .* is 3, not of type list or"),
        ("sft", broken("adapter_config.json", {"peft_type": "NEW"}), "peft_type in .* is 'NEW', which PEFT does not"),
        ("tokenizer", lambda folder: None, r"the run of another stage \(tokenizer\)"),
    ],
)
def test_a_broken_model_is_blamed_before_it_is_loaded(request, copy, config_of, tmp_path, capsys, kind, apply, raised):
    folder = copy(request.getfixturevalue(f"{kind}_dir"))
    apply(folder)
    with pytest.raises(ConfigError, match=raised) as caught:
        config_of("sft", tmp_path / "out", model_name_or_path=str(folder))
    assert [problem.key for problem in caught.value.problems] == ["model_name_or_path"]
    for words in (
        ["chat", str(folder), "--prompt", "x"],
        ["evaluate", str(folder), "--output_dir", str(tmp_path / "e")],
    ):
        assert main(words) in (1, 2)
        shown = capsys.readouterr().err
        assert re.search(raised, shown) or kind == "tokenizer"


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_folder_can_have_is_a_problem(config_of, name):
    with pytest.raises(ConfigError, match="not a valid folder name"):
        config_of("tokenizer", name)


def test_a_template_of_the_model_that_is_not_jinja_is_a_problem(copy, config_of, base_dir, tmp_path):
    folder = copy(base_dir)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(ConfigError, match=r"the chat template of .* is not Jinja: line 1.*: set chat_template"):
        config_of("sft", tmp_path / "out", model_name_or_path=str(folder))
    (tmp_path / "own.jinja").write_text(template)
    config_of("sft", tmp_path / "out", model_name_or_path=str(folder), chat_template=str(tmp_path / "own.jinja"))
