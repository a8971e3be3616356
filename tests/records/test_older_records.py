"""A record that was written before a key existed counts as one with the key's default."""

import json

import pytest

from hfkit.config.fields import DatasetEntry
from hfkit.config.registry import STAGES
from hfkit.core.errors import HfkitError
from hfkit.core.files import write_json
from hfkit.records.record import read_record, settings_of, with_later_keys

NEW_KEYS = ("use_dora", "chat_template_kwargs", "micro_batches_by_length")


def without(settings: dict, keys) -> dict:
    return {key: value for key, value in settings.items() if key not in keys}


def test_a_run_of_an_earlier_release_is_found(run_stage, tmp_path, capsys):
    folder = tmp_path / "out"
    run_stage("tokenizer", folder)
    record = read_record(folder)
    entries = [without(entry, ["convert", "epochs"]) for entry in record["config"]["datasets"]]
    older = {**without(record["config"], ["min_frequency"]), "datasets": entries}
    write_json(folder / "hfkit.json", {**record, "config": older})
    run_stage("tokenizer", folder)
    assert "already done" in capsys.readouterr().out
    with pytest.raises(HfkitError, match="min_frequency: was 2, now 3"):
        run_stage("tokenizer", folder, min_frequency=3)


@pytest.mark.parametrize("stage", STAGES)
def test_later_keys_have_their_defaults_and_others_stay(stage):
    config_class = STAGES[stage].config_class
    config = config_class(output_dir="out", datasets=[DatasetEntry(path="a.jsonl", rows=3)])
    settings = json.loads(json.dumps(settings_of(config)))
    entry = {"path": "a.jsonl", "rows": 3}
    older = {**without(settings, NEW_KEYS), "datasets": [entry], "gone": 1}
    older |= dict.fromkeys({"eval_datasets", "ptx_datasets"} & {*settings})  # None if there are none
    assert with_later_keys(older, config_class) == {**settings, "gone": 1}
