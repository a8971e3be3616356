"""Validate the metadata of a README.md as the Hub does."""

import re

import yaml

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigcode-openrail-m afl-3.0 artistic-2.0 "
    "bsl-1.0 bsd bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 "
    "lgpl lgpl-2.1 lgpl-3.0 isc llama2 llama3 llama3.1 llama3.2 llama3.3 gemma mpl-2.0 odc-by odbl pddl postgresql "
    "unlicense zlib unknown other"
).split()
TASKS = (
    "text-generation text-classification token-classification question-answering summarization translation "
    "fill-mask feature-extraction sentence-similarity text-ranking zero-shot-classification image-text-to-text "
    "reinforcement-learning tabular-classification other"
).split()
RELATIONS = ("adapter", "finetune", "merge", "quantized")
TEXTS = ("library_name", "license_name", "license_link", "model_name", "pretty_name")


def faults_of(content: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Return (errors, warnings) of a card."""
    match = re.match(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(\n|$)", content, re.S)
    if not match:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"YAML metadata error: {error}"], []
    if not isinstance(data, dict):
        return ["YAML metadata is not a mapping"], []
    errors = [error for key, value in data.items() for error in errors_of(key, value)]
    if data.get("license") == "other" and not data.get("license_name"):
        errors.append('"license_name" is required with license: other')
    if "base_model_relation" in data and "base_model" not in data:
        errors.append('"base_model_relation" without "base_model"')
    return errors, [] if "license" in data or repo_type == "model" else ["no license"]


def errors_of(key: str, value: object) -> list[str]:
    """Return the errors of one field."""
    if key in ("base_model", "datasets", "new_version"):
        named = value if isinstance(value, list) else [value]
        return [
            f'"{key}" with value "{name}" is not valid. Use a model id from https://hf.co/models.'
            for name in named
            if not (isinstance(name, str) and HUB_ID.fullmatch(name))
        ]
    choices = {"pipeline_tag": TASKS, "base_model_relation": RELATIONS}
    if key in choices and value not in choices[key]:
        return [f'"{key}" must be one of {choices[key]}']
    if key == "license" and not {*(value if isinstance(value, list) else [value])} <= {*LICENSES}:
        return [f'"license" must be one of {LICENSES}']
    if key in ("tags", "metrics", "language", "task_categories", "size_categories"):
        items = value if isinstance(value, list) else [value]
        return [] if items and all(isinstance(item, str) for item in items) else [f'"{key}" must be strings']
    if key in TEXTS and not isinstance(value, str):
        return [f'"{key}" must be a string']
    return index_errors(value) if key == "model-index" else []


def index_errors(index: object) -> list[str]:
    """Return the errors of a model index: each result needs a task, a dataset with type and name, and metrics."""
    try:
        for entry in index:
            assert isinstance(entry["name"], str), "name"
            for result in entry["results"]:
                assert isinstance(result["task"]["type"], str), "task.type"
                assert isinstance(result["dataset"]["type"], str), "dataset.type"
                assert isinstance(result["dataset"]["name"], str), "dataset.name"
                assert result["metrics"], "metrics"
                for metric in result["metrics"]:
                    assert isinstance(metric["type"], str), "metrics.type"
                    assert metric["value"] is not None, "metrics.value"
    except (AssertionError, LookupError, TypeError) as error:
        return [f'"model-index" is not valid: {error!r}']
    return []
