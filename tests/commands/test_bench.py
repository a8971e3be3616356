"""`hfkit bench`: models through tasks of lm-evaluation-harness, from local files, and code that tasks would run."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_rows

from hfkit.cli import main
from hfkit.config.evaluation import BenchConfig
from hfkit.core.files import write_json
from hfkit.evaluation.bench_files import needs_harness_tasks, read_task_file
from hfkit.evaluation.bench_metrics import difference_of
from hfkit.evaluation.bench_models import bench_models
from hfkit.metrics.shares import wilson_interval
from hfkit.models.loading import load_policy

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'hfkit[bench]'")

COLOURS = "red blue green pink".split()
NAMES = "Ann Bob Cid Dee Eve Fay Gus Hal".split()
ROWS = [{"name": name, "label": index % 4} for index, name in enumerate(NAMES)]
TASK = {
    "task": "colours",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "What does {{name}} like?",
    "doc_to_choice": COLOURS,
    "doc_to_target": "{{label}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 3},
}
WRITE = {
    **{key: TASK[key] for key in ("dataset_path", "dataset_kwargs", "test_split", "doc_to_text")},
    "task": "write",
    "output_type": "generate_until",
    "doc_to_target": "{{name}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def tasks(tmp_path):
    """tasks(*tasks, **changes): a folder with the YAML of each task, the changes in all of them, and their rows."""

    def write(*given: dict, **changes) -> Path:
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        write_rows(folder / "rows.jsonl", ROWS)
        for task in given or (TASK,):
            name = task.get("task") if isinstance(task.get("task"), str) else task["group"]
            (folder / f"{name}.yaml").write_text(yaml.safe_dump({**task, **changes}))
        return folder

    return write


def test_metrics_are_those_of_a_plain_loop(hfkit, tasks, sft_dir, tmp_path):
    """The accuracy by log-likelihood, and greedy responses, computed with transformers alone."""
    folder, out = tasks(TASK, WRITE), tmp_path / "bench"
    arguments = ("--tasks", "colours", folder / "write.yaml", "--include_path", folder, "--output_dir", out)
    printed = hfkit("bench", f"SFT={sft_dir}", *arguments, "--per_device_eval_batch_size", "3")
    model, tokenizer = load_policy(str(sft_dir))
    right, written = [], []
    for row in ROWS:
        prompt = f"What does {row['name']} like?"
        scores = []
        for colour in COLOURS:
            ids = tokenizer(f"{prompt} {colour}", return_tensors="pt").input_ids
            start = len(tokenizer(prompt).input_ids)
            with torch.no_grad():
                logprobs = model(ids).logits[0, :-1].log_softmax(-1)
            scores.append(sum(float(logprobs[at - 1, ids[0, at]]) for at in range(start, ids.shape[1])))
        right.append(scores.index(max(scores)) == row["label"])
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        new = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        written.append(tokenizer.decode(new, skip_special_tokens=True).split("\n")[0] == row["name"])
    result = json.loads((out / "bench.json").read_text())["results"]["SFT"]
    accuracy = result["colours"]["metrics"]["acc"]
    assert accuracy["value"] == pytest.approx(sum(right) / len(ROWS))
    assert result["write"]["metrics"]["exact_match"]["value"] == pytest.approx(sum(written) / len(ROWS))
    assert (accuracy["low"], accuracy["high"]) == pytest.approx(wilson_interval(accuracy["value"], len(ROWS)))
    assert (result["colours"]["version"], result["colours"]["rows"]) == (3, len(ROWS))
    assert "colours" in printed and f"{accuracy['value']:.3f}" in printed
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_results_are_those_of_the_harness(hfkit, tasks, sft_dir, tmp_path):
    """A group, with solved examples from another split, through `simple_evaluate` on transformers' model."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    group = {"group": "all", "task": ["colours", "other"], "aggregate_metric_list": [{"metric": "acc"}]}
    folder = tasks(*({**TASK, "fewshot_split": "test", "task": name} for name in ("colours", "other")), group)
    arguments = ("--include_path", folder, "--output_dir", tmp_path / "bench", "--num_fewshot", "2", "--seed", "5")
    hfkit("bench", f"SFT={sft_dir}", "--tasks", "all", *arguments)
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())["results"]["SFT"]
    for name in ("colours", "other"):
        rows = {"dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**TASK, "fewshot_split": "test", "task": name, **rows}))
    model, tokenizer = load_policy(str(sft_dir))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), 5)
    options = {"num_fewshot": 2, "task_manager": manager, **seeds}
    expected = simple_evaluate(model=HFLM(pretrained=model, tokenizer=tokenizer), tasks=["all"], **options)["results"]
    for name in ("all", "colours", "other"):
        metric = result[name]["metrics"]["acc"]
        assert (metric["value"], metric["stderr"]) == (expected[name]["acc,none"], expected[name]["acc_stderr,none"])
    assert result["colours"]["num_fewshot"] == 2


def test_responses_are_those_of_a_plain_loop(tasks, sft_dir):
    """Log-likelihoods to a few digits, and greedy text in batches with padding, not only the metrics made of them."""
    from lm_eval.api.instance import Instance

    from hfkit.evaluation.harness import HarnessModel
    from hfkit.evaluation.replies import Subject

    config = BenchConfig(models=[str(sft_dir)], tasks=["colours"], per_device_eval_batch_size=2)
    subject = Subject("SFT", str(sft_dir))
    prompts = [f"What does {name} like?" for name in ("Ann", "Bob and Cid", "Eve")]
    limits = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
    asked = [Instance("generate_until", {}, (prompt, limits), 0) for prompt in prompts]
    written = HarnessModel(subject, config).generate_until(asked)
    for prompt, text in zip(prompts, written, strict=True):
        ids = subject.tokenizer(prompt, return_tensors="pt").input_ids
        new = subject.model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        assert text == subject.tokenizer.decode(new, skip_special_tokens=True).split("\n")[0] != ""


def test_an_adapter_and_its_merged_model_are_equal(hfkit, tasks, sft_dir, tmp_path):
    hfkit("merge", sft_dir, tmp_path / "merged", "--dtype", "float32")
    arguments = ("--include_path", tasks(), "--output_dir", tmp_path / "bench", "--apply_chat_template")
    printed = hfkit("bench", sft_dir, tmp_path / "merged", "--tasks", "colours", *arguments)
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    adapter, merged = result["results"].values()
    assert adapter == merged
    (difference,) = result["differences"]
    assert difference["is_paired"] and difference["difference"] == difference["low"] == difference["high"] == 0
    assert "+0.000 (+0.000 to +0.000)" in printed


def test_a_conversation_is_rendered_as_in_training(sft_dir):
    from hfkit.data.chat_template import encode_prompt
    from hfkit.evaluation.harness import HarnessModel
    from hfkit.evaluation.replies import Subject

    subject = Subject("SFT", str(sft_dir), system_prompt="Answer in one word.")
    config = BenchConfig(models=[str(sft_dir)], tasks=["colours"], apply_chat_template=True)
    model, messages = HarnessModel(subject, config), [{"role": "user", "content": "Who?"}]
    text = model.apply_chat_template(messages)
    assert "Answer in one word." in text
    assert model.tok_encode(text) == encode_prompt(subject.tokenizer, messages)
    begun = [*messages, {"role": "assistant", "content": "It is"}]
    assert model.apply_chat_template(begun, add_generation_prompt=False) == text + "It is"


def test_a_bench_resumes_per_model_and_task(hfkit, tasks, base_dir, sft_dir, tmp_path):
    arguments = ("--include_path", tasks(TASK, WRITE), "--output_dir", tmp_path / "bench", "--limit", "2")
    assert "base: colours" in hfkit("bench", f"base={base_dir}", *arguments, "--tasks", "colours")
    whole = ("bench", f"base={base_dir}", f"SFT={sft_dir}", *arguments, "--tasks", "colours", "write")
    printed = hfkit(*whole)
    assert "base: colours" not in printed and "base: write" in printed and "SFT: colours" in printed
    before = (tmp_path / "bench" / "bench.json").read_bytes()
    assert "loading" not in hfkit(*whole)
    assert (tmp_path / "bench" / "bench.json").read_bytes() == before
    write_rows(tmp_path / "tasks" / "rows.jsonl", ROWS[::-1])
    assert "base: colours" in hfkit(*whole), "other rows"


def test_a_pipeline_stands_for_its_language_models(tmp_path):
    """In the order of training, also where a later stage is made before another one, and in a folder that moved."""
    made = {
        "zero": ("sft", "first"),
        "first": ("pretrain", None),
        "reward": ("reward", "zero"),
        "ppo": ("ppo", "again"),
        "again": ("sft", "dpo"),
        "dpo": ("dpo", "zero"),
        "half": ("sft", "first"),
    }
    for name, (stage, parent) in made.items():
        parents = [] if parent is None else [{"path": f"/elsewhere/{parent}", "stage": made[parent][0]}]
        lineage = [{**one, "role": "start", "revision": None, "weights_sha256": None} for one in parents]
        record = {"stage": stage, "status": "running" if name == "half" else "done", "lineage": lineage}
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "hfkit.json", record)
    assert [name for name, _ in bench_models([str(tmp_path)])] == ["first", "zero", "dpo", "again", "ppo"]
    assert bench_models([f"one={tmp_path / 'zero'}"]) == [("one", str(tmp_path / "zero"))]


MARK = "import pathlib; pathlib.Path({path!r}).touch()\ndef f(*args, **kwargs): return 'red'\n"


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"doc_to_text": "FUNCTION code.f"}, "!function code.f on line"),
        ({"unsafe_code": True}, "unsafe_code: true"),
        ({"metric_list": [{"metric": "code.py"}]}, "the metric code.py"),
        ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "the metric acc (hf_evaluate: true)"),
        ({"dataset_path": "pandas"}, "dataset_path: pandas"),
    ],
)
def test_code_of_a_task_is_refused(tasks, base_dir, tmp_path, capsys, changes, reported):
    folder = tasks(**changes)
    (folder / "code.py").write_text(MARK.format(path=str(tmp_path / "ran")))
    file = folder / "colours.yaml"
    file.write_text(file.read_text().replace("FUNCTION", "!function"))
    arguments = ["--include_path", str(folder), "--output_dir", str(tmp_path / "bench")]
    assert main(["bench", str(base_dir), "--tasks", "colours", *arguments]) == 2
    error = capsys.readouterr().err
    assert reported in error and "--allow_code" in error
    assert not (tmp_path / "ran").exists()


def test_code_in_an_included_file_is_refused_and_runs_if_allowed(tasks, base_dir, tmp_path, capsys):
    folder = tasks(include="shared.txt")
    (folder / "shared.txt").write_text("process_docs: !function code.keep\n")
    (folder / "code.py").write_text("def keep(rows):\n    return rows.select(range(3))\n")
    command = ["bench", str(base_dir), "--tasks", str(folder / "colours.yaml"), "--output_dir", str(tmp_path / "bench")]
    assert main(command) == 2
    assert "shared.txt: !function code.keep on line 1" in capsys.readouterr().err
    assert main([*command, "--allow_code"]) == 0
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert result["results"]["pretrain"]["colours"]["rows"] == 3


def test_a_template_cannot_reach_python(tasks, base_dir, tmp_path, capsys):
    folder = tasks(doc_to_text="{{ ''.__class__.__mro__[1].__subclasses__() }}")
    command = ["bench", str(base_dir), "--tasks", str(folder / "colours.yaml"), "--output_dir", str(tmp_path / "bench")]
    assert main(command) == 1
    assert "SecurityError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "reported"),
    [
        (["--tasks", "nowhere.yaml"], 2, "no such file"),
        (["--tasks", "colours", "colours"], 2, "named twice"),
        (["--tasks", "colours", "--limit", "0"], 2, "must be above 0"),
        (["--tasks", "hub"], 1, "the rows of the task hub are not on this machine, and the Hub cannot be reached"),
    ],
)
def test_a_mistake_is_reported_before_weights_are_loaded(
    tasks, base_dir, tmp_path, capsys, arguments, status, reported
):
    folder = tasks(TASK, {**TASK, "task": "hub", "dataset_path": "someone/rows", "dataset_kwargs": {}})
    command = ["bench", str(base_dir), *arguments, "--include_path", str(folder)]
    assert main([*command, "--output_dir", str(tmp_path / "bench")]) == status
    printed = capsys.readouterr()
    assert reported in printed.err and "loading" not in printed.out


def test_an_unknown_name_and_unsafe_code_of_the_harness_are_reported(tasks):
    from lm_eval.tasks import TaskManager

    from hfkit.core.errors import ConfigError
    from hfkit.evaluation.harness import require_known

    folder = tasks(TASK, {**TASK, "task": "unsafe", "unsafe_code": True}, {"group": "all", "task": ["unsafe"]})
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    with pytest.raises(ConfigError) as raised:
        require_known(manager, ["colors", "all"], allow_code=False)
    assert "there is no such task; did you mean 'colours'?" in str(raised.value)
    assert "tasks: 'unsafe' -> unsafe_code: it executes code" in str(raised.value)
    require_known(manager, ["all"], allow_code=True)


def test_a_reward_model_is_refused(reward_dir, tasks, tmp_path, capsys):
    command = ["bench", str(reward_dir), "--tasks", "colours", "--include_path", str(tasks())]
    assert main([*command, "--output_dir", str(tmp_path / "bench")]) == 2
    assert "a reward model" in capsys.readouterr().err


def test_a_group_is_local_if_its_members_are(tasks):
    folder = tasks(TASK, {"group": "all", "task": ["colours"]}, {"group": "more", "task": ["all", "mmlu"]})
    files = [read_task_file(path) for path in sorted(folder.glob("*.yaml"))]
    assert not needs_harness_tasks(["all"], files)
    assert needs_harness_tasks(["more"], files) and needs_harness_tasks(["arc_easy"], files)


def test_a_difference_is_that_of_the_rows():
    old, new = ({"value": sum(v) / 4, "stderr": 0.1, "values": v} for v in ([1.0, 0, 0, 0], [1.0, 1, 0, 0]))
    paired = difference_of(old, new)
    assert paired["is_paired"] and (paired["difference"], paired["low"]) == (0.25, 0.0)
    apart = difference_of({**old, "values": None}, new)
    width = 1.959964 * math.hypot(0.1, 0.1)
    assert not apart["is_paired"] and (apart["low"], apart["high"]) == pytest.approx((0.25 - width, 0.25 + width))


def test_wilsons_interval_has_a_width_for_none_and_all():
    """The values of Wilson 1927 for 0 and 10 of 10."""
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
