"""The pages of the reference that docs/hooks/ writes name everything that the code has."""

import html
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from hfkit.cli import DATA_VERBS, VERBS
from hfkit.config.evaluation import ArenaConfig, EvaluateConfig
from hfkit.config.fields import REFUSED, DatasetEntry
from hfkit.config.registry import STAGES
from hfkit.config.stages import PPO_READS, PPOConfig
from hfkit.config.validation import known_fields
from hfkit.stages.pipeline_file import KEYS

HOOKS = Path(__file__).parents[2] / "docs" / "hooks"
CONFIGS = {
    **{name: spec.config_class for name, spec in STAGES.items()},
    "evaluate": EvaluateConfig,
    "arena": ArenaConfig,
}


@pytest.fixture(scope="module")
def hooks():
    """The modules of docs/hooks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HOOKS)
        patch.setenv("COLUMNS", "100")  # the hook sets both, and they must not stay for other tests
        patch.setenv("NO_COLOR", "1")
        import command_help
        import config_keys
        import python_api

        yield command_help, config_keys, python_api


@pytest.fixture(scope="module")
def reference(hooks):
    """The module that writes docs/reference/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HOOKS)
        import write_reference

        yield write_reference


def test_the_pages_of_the_repository_are_those_of_the_code(reference):
    stale = [*reference.stale_pages()]
    assert not stale, f"docs/reference/ is stale: run {reference.COMMAND}"


@pytest.mark.slow
def test_a_page_that_is_missing_or_changed_is_stale(reference, tmp_path):
    pages = reference.stale_pages(tmp_path)
    assert [*pages] == ["keys.md", "commands.md"]
    for name, text in pages.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert reference.stale_pages(tmp_path) == {}
    (tmp_path / "keys.md").write_text("# Config keys", encoding="utf-8")
    assert [*reference.stale_pages(tmp_path)] == ["keys.md"]


@pytest.fixture(scope="module")
def sections(hooks):
    """Rows of the tables of keys.md, as {section: {key: [type, default, meaning]}}, in readable text."""
    _, config_keys, _ = hooks
    found: dict[str, dict[str, list[str]]] = {}
    for line in config_keys.keys_page().splitlines():
        if heading := re.match(r"#+ .*\{#(\S+)\}", line):
            section = found.setdefault(heading[1], {})
        elif row := re.match(r"\| (?:<span id=\"\S+\"></span>)?`(\w+)` \| (.*) \|$", line):
            assert row[1] not in section, "a key is explained twice"
            section[row[1]] = [
                html.unescape(re.sub(r"\\(.)", r"\1", cell)) for cell in re.split(r"(?<!\\) \| ", row[2])
            ]
    return found


@pytest.fixture(scope="module")
def groups(hooks):
    """The anchors of the groups of keys that stages share, by their classes."""
    _, config_keys, _ = hooks
    return {group: config_keys.anchor(title) for group, (title, _) in config_keys.SHARED.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_is_explained_once_with_its_help(name, sections, groups):
    config_class = CONFIGS[name]
    chain = [name, *(groups[base] for base in config_class.__mro__ if base in groups)]
    explained = {}
    for field in fields(config_class):
        if field.name in known_fields(config_class):
            section = next((one for one in chain if field.name in sections[one]), None)
            explained[field.name] = section and sections[section][field.name][2].startswith(field.metadata["help"])
    assert explained and [key for key, is_right in explained.items() if not is_right] == []


def test_no_section_has_a_key_that_its_config_lacks(sections, groups):
    by_section = {**CONFIGS, **{section: group for group, section in groups.items()}}
    wrong = {name: sections[name].keys() - known_fields(config).keys() for name, config in by_section.items()}
    assert {name: keys for name, keys in wrong.items() if keys} == {}


def test_types_and_defaults_are_readable(sections):
    assert sections["ppo"]["kl_coef"][:2] == ["number", "`0.05`"]
    assert sections["ppo"]["kl_estimator"][:2] == ["`k1`, `k3`", "`k1`"]
    assert sections["ppo"]["kl_target"][:2] == ["number", "none"]
    assert sections["output"]["output_dir"][:2] == ["text", "required"]
    assert sections["training-data"]["datasets"][:2] == ["[dataset entries](#dataset-entries)", "`[]`"]
    assert sections["dpo"]["loss_type"][:2] == ["text or list of text", "`[sigmoid]`"]


def test_a_shared_key_names_the_stages_in_which_it_differs(sections):
    assert "differs in" in sections["batches-and-optimizer"]["learning_rate"][2]
    assert "[PPO](#ppo)" in sections["batches-and-optimizer"]["learning_rate"][2]
    assert "differs in" not in sections["batches-and-optimizer"]["weight_decay"][2]


def test_every_key_of_a_dataset_entry_and_of_a_pipeline_is_explained(sections):
    assert sections["dataset-entries"].keys() == known_fields(DatasetEntry).keys()
    assert sections["pipelines"].keys() == {*KEYS}


def test_every_refused_key_has_its_remedy(sections):
    listed = {group: {key: cells[0] for key, cells in sections[f"refused-{group}"].items()} for group in REFUSED}
    assert listed == REFUSED
    assert PPOConfig.refused_field("neftune_noise_alpha"), "the page says that PPO accepts few further fields"
    assert all(PPOConfig.extra_field(name) and not PPOConfig.refused_field(name) for name in PPO_READS)


def test_anchors_are_unique(hooks):
    _, config_keys, _ = hooks
    page = config_keys.keys_page()
    anchors = re.findall(r'id="(\S+)"|\{#(\S+)\}', page)
    names = [one or other for one, other in anchors]
    assert len(names) == len(set(names)) > 150
    assert set(re.findall(r"\]\(#(\S+?)\)", page)) <= {*names}


def test_the_example_of_the_page_has_keys_of_a_stage(hooks):
    _, config_keys, _ = hooks
    example = yaml.safe_load(re.search(r"```yaml.*?\n(.*?)```", config_keys.INTRODUCTION, re.DOTALL)[1])
    assert example and example.keys() <= known_fields(STAGES["sft"].config_class).keys()


def test_every_verb_has_its_help(hooks):
    command_help, *_ = hooks
    page = command_help.commands_page()
    verbs = [*STAGES, *(verb for verb in VERBS if verb != "data"), *(f"data {verb}" for verb in DATA_VERBS)]
    headings = re.findall(r"^## `hfkit ?(.*)`$", page, re.MULTILINE)
    assert sorted(headings) == sorted(["", *verbs])
    assert "--with_base" in page and "--temperature" in page
    assert str(Path.home()) not in page and str(HOOKS.parents[1]) not in page


@pytest.mark.parametrize("verb", ["sft", "push", "data check"])
def test_the_help_of_a_verb_is_that_of_the_command(hooks, verb):
    command_help, *_ = hooks
    command = [sys.executable, "-m", "hfkit.cli", *verb.split(), "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert command_help.help_of(verb).split() == printed.split()


def test_every_public_name_is_on_the_page_of_the_python_api(hooks):
    import hfkit
    from hfkit import rlhf

    *_, python_api = hooks
    page = python_api.python_page()
    missing = [name for name in dir(hfkit) if name != "__version__" and f"hfkit.{name}`" not in page]
    assert [name for name in missing if f"heading: hfkit.{name}\n" not in page] == []
    assert [name for name in rlhf.MODULES if f"heading: hfkit.rlhf.{name}\n" not in page] == []


@pytest.mark.slow
def test_pages_are_written_without_torch():
    code = f"import sys; sys.path.insert(0, {str(HOOKS)!r}); import command_help, config_keys, python_api\n"
    code += "command_help.commands_page(), config_keys.keys_page(), python_api.python_page()\n"
    code += "print([name for name in ('torch', 'transformers', 'trl', 'datasets') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
