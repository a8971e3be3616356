"""The quickstart's small world: its files, its hidden rule and what it holds out."""

import json
from pathlib import Path

import pytest

from hfkit.quickstart.facts import BY_NAME, World, capitalized, name_words, pronoun_words, statement
from hfkit.quickstart.gold import COURTESIES, FILLERS, GoldScorer, answer_is_right
from hfkit.quickstart.world import write_world

COLUMNS = {
    "documents": {"text"},
    "documents_test": {"text"},
    "instructions": {"messages"},
    "instructions_test": {"messages"},
    "rankings": {"prompt", "replies", "scores"},
    "preferences": {"prompt", "chosen", "rejected"},
    "preferences_test": {"prompt", "chosen", "rejected", "clean"},
    "prompts": {"prompt"},
    "questions_test": {"prompt", "answer", "attribute", "name"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    counts = write_world(folder, seed=0)
    assert counts == {f"{name}.jsonl": len(rows(folder, name)) for name in COLUMNS}
    return folder


@pytest.fixture(scope="module")
def gold() -> GoldScorer:
    return GoldScorer(seed=0)


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def asked(world: World, messages: list[dict]) -> set[tuple]:
    """Every (fact, wording) that the user's messages of a conversation ask."""
    found, person = set(), None
    for i, message in enumerate(messages):
        if message["role"] == "user":
            person, attribute = world.asked_fact(messages[: i + 1])
            fact = (person, attribute)
            texts = [(w, up) for w in range(8) for up in (False, True)]
            found |= {(fact, w) for w, up in texts if world.question(fact, w, up) == message["content"]}
    return found


@pytest.mark.slow
def test_same_seed_writes_the_same_bytes_and_another_seed_another_world(folder: Path, tmp_path: Path) -> None:
    write_world(tmp_path / "again", seed=0)
    for name in COLUMNS:
        assert (tmp_path / "again" / f"{name}.jsonl").read_bytes() == (folder / f"{name}.jsonl").read_bytes()
    assert World(0).values != World(1).values


def test_files_have_their_columns_and_nothing_half_written_stays(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {f"{name}.jsonl" for name in COLUMNS}
    for name, columns in COLUMNS.items():
        assert all(set(row) == columns for row in rows(folder, name))
    for row in rows(folder, "instructions"):
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert any(len(row["messages"]) > 2 for row in rows(folder, "instructions"))
    assert all(row["prompt"][-1]["role"] == "user" for row in rows(folder, "questions_test"))
    assert len(rows(folder, "questions_test")) >= 300


def test_rankings_are_four_different_replies_best_first(folder: Path, gold: GoldScorer) -> None:
    for row in rows(folder, "rankings"):
        assert len(set(row["replies"])) == 4
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert row["scores"] == [gold(row["prompt"], reply) for reply in row["replies"]]


@pytest.mark.slow
def test_a_tenth_of_the_labels_is_flipped(folder: Path, gold: GoldScorer) -> None:
    for name in ("preferences", "preferences_test"):
        pairs = rows(folder, name)
        agrees = [gold(p["prompt"], p["chosen"]) > gold(p["prompt"], p["rejected"]) for p in pairs]
        assert 0.08 < 1 - sum(agrees) / len(agrees) < 0.12
        assert all(p.get("clean", a) == a for p, a in zip(pairs, agrees, strict=True))


def test_held_out_questions_are_in_no_training_conversation(folder: Path, gold: GoldScorer) -> None:
    world = gold.world
    seen = set()
    for name, column in (("instructions", "messages"), ("prompts", "prompt"), ("rankings", "prompt")):
        for row in rows(folder, name):
            seen |= asked(world, row[column])
    held = {(fact, wording) for fact, wordings in world.held_questions.items() for wording in wordings}
    assert not seen & held
    questions = rows(folder, "questions_test")
    for row in questions:
        (combination,) = asked(world, row["prompt"]) - asked(world, row["prompt"][:-1])
        assert combination in held
    answered = {fact for fact, _ in seen}
    assert any(world.asked_fact(row["prompt"]) not in answered for row in questions)
    assert all(row["answer"] == world.values[world.asked_fact(row["prompt"])] for row in questions)


def test_documents_state_every_fact_and_hold_one_wording_of_each_back(folder: Path, gold: GoldScorer) -> None:
    text = "\n".join(row["text"] for row in rows(folder, "documents"))
    test = "\n".join(row["text"] for row in rows(folder, "documents_test"))
    assert "?" not in text
    shown = 0
    for (name, attribute), value in gold.world.values.items():
        wordings = [statement(s, name_words(name), value) for s in BY_NAME[attribute].statements]
        held = wordings.pop(gold.world.held_statement[name, attribute])
        assert any(wording in text or capitalized(wording) in text for wording in wordings)
        assert held not in text and capitalized(held) not in text
        shown += held in test or capitalized(held) in test
    assert shown > 80


@pytest.fixture(scope="module")
def case(gold: GoldScorer) -> dict[str, str]:
    """A question with the parts of its responses: the right sentence, a wrong one, the reason."""
    fact = gold.world.facts[0]
    attribute = BY_NAME[fact[1]]
    wrong = next(value for value in attribute.values if value != gold.world.values[fact])
    return {
        "question": gold.world.question(fact, 0),
        "value": gold.world.values[fact],
        "right": capitalized(statement(attribute.statements[0], name_words(fact[0]), gold.world.values[fact])),
        "wrong": capitalized(statement(attribute.statements[0], name_words(fact[0]), wrong)),
        "reason": attribute.reason.format(**pronoun_words(fact[0])),
    }


def test_gold_orders_replies(gold: GoldScorer, case: dict[str, str]) -> None:
    prompt = [{"role": "user", "content": case["question"]}]
    right, reason, polite = case["right"], case["reason"], COURTESIES[0]
    order = [
        f"{right} {reason}. {polite}",
        f"{right}. {polite}",
        f"{right}.",
        f"{FILLERS[0]} {right}.",
        f"{case['value']}.",
        f"{case['wrong']} {reason}. {polite}",
        "I do not know.",
        "",
    ]
    scores = [gold(prompt, reply) for reply in order]
    assert scores == sorted(set(scores), reverse=True)
    assert scores[0] == 1 and scores[-1] == 0


def test_gold_is_not_bought_with_cheap_text(gold: GoldScorer, case: dict[str, str]) -> None:
    prompt = [{"role": "user", "content": case["question"]}]
    right, best = case["right"], f"{case['right']} {case['reason']}. {COURTESIES[0]}"
    values = BY_NAME[gold.world.asked_fact(prompt)[1]].values
    for cheap in (
        "",
        " \n",
        "the the the the the the",
        f"{case['value']} " * 5,
        f"{right}. " * 3 + COURTESIES[0],
        f"{best} {best}",
        f"{best} " * 20,
        f"{best} " + " ".join(f"word{i}" for i in range(40)),
        " ".join(values),
        " ".join(COURTESIES * 3),
    ):
        assert gold(prompt, cheap) <= 0.25, cheap


def test_gold_follows_a_pronoun_and_refuses_what_it_does_not_know(gold: GoldScorer) -> None:
    name = gold.world.people[0]
    first, second = (name, "city"), (name, "pet")
    value = gold.world.values[second]
    prompt = [
        {"role": "user", "content": gold.world.question(first, 0)},
        {"role": "assistant", "content": "In Oslo."},
        {"role": "user", "content": gold.world.question(second, 1, follow_up=True)},
    ]
    assert gold(prompt, f"A {value}.") > gold(prompt, "A unicorn.")
    with pytest.raises(ValueError, match="no person"):
        gold(prompt[2:], value)
    with pytest.raises(ValueError, match="not a question"):
        gold([{"role": "user", "content": "Why?"}], "Because.")


def test_answer_is_right_wants_the_whole_word_and_no_other_value() -> None:
    assert answer_is_right("Mira keeps a cat.", "cat", "Mira")
    assert answer_is_right("Cat!", "cat", "Mira")
    assert not answer_is_right("Mira keeps cattle.", "cat", "Mira")
    assert not answer_is_right("A cat or a dog.", "cat", "Mira")
    assert answer_is_right("In red Oslo.", "Oslo", "Mira")
    assert not answer_is_right("Ada keeps a cat.", "cat", "Mira")
    assert not answer_is_right("", "cat", "Mira")
