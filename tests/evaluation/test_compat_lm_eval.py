"""The private parts of lm-evaluation-harness that hfkit uses: each test fails when upstream moves one."""

import pytest
import yaml
from conftest import write_rows

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'hfkit[bench]'")

from jinja2.exceptions import SecurityError
from lm_eval.tasks import TaskManager
from lm_eval.utils import apply_template

from hfkit.evaluation.compat_lm_eval import add_task, sandboxed_templates, set_dataset_kwargs

ESCAPE = "{{ ''.__class__.__mro__ }}"


def test_the_harness_renders_templates_in_the_sandbox():
    with sandboxed_templates():
        assert apply_template("{{ word | regex_replace('a', 'o') }}\n", {"word": "cat"}) == "cot\n"
        with pytest.raises(SecurityError):
            apply_template(ESCAPE, {})
    assert "object" in apply_template(ESCAPE, {})


def test_a_manager_loads_an_added_task_with_other_data_files(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"name": "Ann"}])
    task = {
        "task": "names",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "elsewhere.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "!function names.text",
        "doc_to_target": "{{name}}",
    }
    path, manager = tmp_path / "names.yaml", TaskManager(include_defaults=False)
    path.write_text(yaml.safe_dump(task).replace("'!function names.text'", "!function names.text"))
    (tmp_path / "names.py").write_text("def text(doc):\n    return doc['name'] + '!'\n")
    add_task(manager, "names", path, task)
    assert manager.task_index["names"].cfg == task
    set_dataset_kwargs(manager, "names", path, {"data_files": {"test": str(tmp_path / "rows.jsonl")}})
    [loaded] = manager.load(["names"])["tasks"].values()
    assert [loaded.doc_to_text(row) for row in loaded.dataset["test"]] == ["Ann!"]
