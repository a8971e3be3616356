"""The file of judgements, and who gets which row next."""

import json

import pytest
from full_disk import largest_file

from hfkit.commands.label.assignment import HELD_SECONDS, Assignment, shuffled
from hfkit.commands.label.labels_file import LabelsFile, now
from hfkit.core.errors import HfkitError


def test_a_file_of_something_else_is_not_overwritten(tmp_path):
    path = tmp_path / "judgements.jsonl"
    for content, fault in (('{"key": 1}\n', "line 1 is not a judgement"), ('{"key": 1}\n{\n', "line 2 is not JSON")):
        path.write_text(content)
        with pytest.raises(HfkitError, match=fault):
            LabelsFile(path)
        assert path.read_text() == content


EVENT = {"id": "a", "kind": "judgement", "labeler": "Ann", "row": "r", "time": now()}


def test_a_failed_write_keeps_what_someone_added_meanwhile(tmp_path):
    saved = LabelsFile(tmp_path / "judgements.jsonl")
    saved.add([EVENT])
    with saved.path.open("a") as stream:
        stream.write(json.dumps(EVENT | {"id": "edited"}) + "\n")
    with largest_file(saved.path.stat().st_size + 5), pytest.raises(OSError, match="bytes written"):
        saved.add([EVENT | {"id": "b"}])
    assert [*saved.ids] == ["a"] and [*LabelsFile(saved.path).ids] == ["a", "edited"]
    saved.add([EVENT | {"id": "c"}])
    assert [*LabelsFile(saved.path).ids] == ["a", "edited", "c"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labeler", None),
        ("labeler", "\ud800"),
        ("row", 5),
        ("ranks", [1, "2"]),
        ("ranks", "ab"),
        ("ranks", [1e999, 1]),
        ("all_bad", "x"),
        ("answer", 5),
        ("answer", "\ud800"),
        ("flags", [5, []]),
        ("flags", [[["x"]], []]),
        ("seconds", "1"),
        ("seconds", float("nan")),
    ],
)
def test_a_field_that_someone_spoiled_is_reported_with_its_line(tmp_path, field, value):
    path = tmp_path / "judgements.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (EVENT, EVENT | {"id": "b", field: value})))
    before = path.read_bytes()
    with pytest.raises(HfkitError, match=f"line 2 is not a judgement .*{field}: "):
        LabelsFile(path)
    assert path.read_bytes() == before


class Clock:
    """A clock that a test sets."""

    time = 0.0

    def __call__(self) -> float:
        return self.time


def test_a_row_on_another_screen_is_given_last_and_freed_after_ten_minutes(tmp_path):
    saved, clock = LabelsFile(tmp_path / "judgements.jsonl"), Clock()
    rows = Assignment(["a", "b", "c"], saved, overlap=1, seed=0, clock=clock)
    of_ann = rows.next_row("Ann")
    of_bob = [rows.next_row("Bob")]
    of_bob.append(rows.next_row("Bob", of_bob))
    assert of_ann not in of_bob and rows.next_row("Bob", of_bob) == of_ann  # rather than none
    clock.time = HELD_SECONDS + 1
    order = [rows.next_row("Ann")]
    order += [rows.next_row("Ann", order)]
    assert order == [Assignment(["a", "b", "c"], saved, 1, 0).next_row("Ann", order[:n]) for n in range(2)]


def test_the_order_of_responses_depends_on_row_and_labeler_and_not_on_the_session():
    orders = {(name, row): tuple(shuffled(4, 7, name, row)) for name in "xyz" for row in map(str, range(20))}
    assert orders == {key: tuple(shuffled(4, 7, *key)) for key in orders}
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders.values()) and len(set(orders.values())) > 10
