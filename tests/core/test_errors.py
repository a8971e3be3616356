"""Which known name an error suggests for a misspelled one."""

import pytest

from hfkit.cli import all_verbs
from hfkit.config.registry import STAGES
from hfkit.config.validation import known_fields
from hfkit.core.errors import nearest

KEYS = sorted({key for spec in STAGES.values() for key in known_fields(spec.config_class)})


def swapped(name: str) -> set[str]:
    """All spellings of a name with two adjacent characters swapped."""
    return {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1)} - {name}


@pytest.mark.parametrize("known", [[*all_verbs()], KEYS], ids=["verbs", "keys"])
def test_two_swapped_characters_are_found_in_every_name(known):
    found = {(name, typo): nearest(typo, known) for name in known for typo in swapped(name) - {*known}}
    assert len(found) > 80
    assert {pair: guess for pair, guess in found.items() if guess != pair[0]} == {}


@pytest.mark.parametrize("known", [[*all_verbs()], KEYS], ids=["verbs", "keys"])
def test_a_missing_or_additional_character_is_found_unless_two_names_are_as_near(known):
    some = known[::3]  # all of them take seconds
    typos = {name[:i] + name[i + 1 :]: name for name in some for i in range(len(name))}
    typos |= {name[:i] + "x" + name[i:]: name for name in some for i in range(len(name) + 1)}
    wrong = [typo for typo, name in typos.items() if typo not in known and nearest(typo, known) != name]
    assert len(wrong) < 0.02 * len(typos)


@pytest.mark.parametrize(
    ("typo", "name"),
    [("stf", "sft"), ("gpro", "grpo"), ("SFT", "sft"), ("Grpo", "grpo"), ("rn", "run"), ("evalute", "evaluate")],
)
def test_typos_of_verbs_are_found(typo, name):
    assert nearest(typo, all_verbs()) == name


@pytest.mark.parametrize("word", ["kto", "set", "web", "gpu", "simpo", "install", "tune", "rum", "list", "x", ""])
def test_other_words_are_no_typos_of_verbs(word):
    assert nearest(word, all_verbs()) is None


def test_flags_with_hyphens_are_found():
    assert nearest("learning-rate", KEYS) == "learning_rate"
    assert nearest("lora-alhpa", KEYS) == "lora_alpha"
