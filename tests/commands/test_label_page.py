"""The page of `hfkit label` in Chromium: people rank responses by keys, mouse and touch."""

import pytest
from browser import SIZES
from label_browser import PHONE, REPLIES, card, number, order, press, rank_by_keys, submit

pytestmark = pytest.mark.browser


def test_keys_rank_the_responses_from_best_to_worst(page_server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "gamma", "alpha", "delta")
    assert order(page) == ["gamma", "alpha", "delta", "beta"]
    assert card(page, "beta").get_attribute("aria-label") == f"Response {number(page, 'beta')}, rank 4"
    press(page, "Enter")
    page.locator("#live", has_text="Saved.").wait_for(state="attached")
    (event,) = page_server.events(open_row.labeler)
    assert event["ranks"] == [2, 4, 1, 3]
    assert (event["kind"], event["all_bad"], event["answer"], event["flags"]) == ("judgement", False, None, [[]] * 4)
    assert 0 <= event["seconds"] < 60


def test_keys_move_and_tie(page_server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "alpha", "beta", "gamma")
    press(page, number(page, "delta"), "Shift+ArrowUp", "Shift+ArrowUp", "t")
    assert order(page) == ["alpha", "delta", "beta", "gamma"]
    assert card(page, "delta").get_attribute("aria-label") == f"Response {number(page, 'delta')}, rank 1, tied"
    press(page, "ArrowDown", "Shift+ArrowDown")
    submit(page)
    assert page_server.events(open_row.labeler)[-1]["ranks"] == [1, 4, 3, 1]


def test_a_tie_can_be_taken_back_and_ranks_cleared(page_server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "alpha", "beta")
    press(page, "t", "t")
    assert page.locator("li.tie").count() == 0
    press(page, "Backspace", number(page, "gamma"), "r")
    assert page.get_by_label("Ranked, best first").locator("li").count() == 3
    submit(page)
    assert page_server.events(open_row.labeler)[-1]["ranks"] == [1, 3, 2, 3]


def test_circles_rank_and_clear(page_server, open_row):
    page = open_row("Four", "phone", **PHONE)
    for text in ("beta", "delta", "alpha"):
        card(page, text).locator(".rank").tap()
    card(page, "delta").locator(".rank").tap()  # clears it and those below
    assert page.locator("#state").inner_text() == "3 left to rank"
    card(page, "gamma").locator(".rank").tap()
    page.get_by_role("button", name="Tie the rest").tap()
    submit(page)
    assert page_server.events(open_row.labeler)[-1]["ranks"] == [3, 1, 2, 3]


def test_buttons_move_by_mouse(page_server, open_row):
    page = open_row("Four")
    first, second, *_ = order(page)
    card(page, second).get_by_role("button", name="up").click()
    assert order(page)[:2] == [second, first]
    card(page, second).get_by_role("button", name="down").click()
    card(page, second).get_by_role("button", name="Tie").click()
    assert order(page)[:2] == [first, second] and page.locator("li.tie .card").count() == 2


def test_arrow_keys_on_the_handle_move(open_row):
    page = open_row("Four")
    first, second, *_ = order(page)
    card(page, first).locator(".handle").focus()
    press(page, "ArrowDown")
    assert order(page)[:2] == [second, first]
    assert card(page, first).locator(".handle").evaluate("handle => handle === document.activeElement")


def drag(page, source, other, part: float, touch: bool = False) -> None:
    """Drag a card by its handle to a part of the height of another one: below 0.3 is before, above 0.7 after."""
    handle = source.locator(".handle")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    client = page.context.new_cdp_session(page)

    def point(kind: str, y: float) -> None:
        if touch:
            points = [] if kind == "End" else [{"x": x, "y": y}]
            client.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
        elif kind == "Move":
            page.mouse.move(x, y)
        else:
            page.mouse.down() if kind == "Start" else page.mouse.up()

    if not touch:
        page.mouse.move(x, y)
    point("Start", y)
    point("Move", y - 8)
    page.locator(".sorting").wait_for()
    box = other.bounding_box()  # texts are short now
    target = box["y"] + part * box["height"]
    for step in range(1, 6):
        point("Move", y - 8 + (target - y + 8) * step / 5)
    point("End", target)
    assert page.locator(".sorting").count() == 0


@pytest.mark.parametrize(("part", "ranks"), [(0.1, [2, 1]), (0.5, [1, 1]), (0.9, [1, 2])])
@pytest.mark.parametrize("touch", [False, True])
def test_dragging_ranks_and_ties(page_server, open_row, touch, part, ranks):
    page = open_row("Two", "phone", **PHONE) if touch else open_row("Two")
    shown = order(page)
    drag(page, card(page, shown[1]), card(page, shown[0]), part, touch)
    submit(page)
    event = page_server.events(open_row.labeler)[-1]
    assert [event["ranks"][REPLIES["Two"].index(text)] for text in shown] == ranks


def test_long_texts_collapse_while_a_finger_drags(open_row):
    page = open_row("Long", "phone", **PHONE)
    cards = page.locator(".card")
    before = cards.nth(2).get_attribute("aria-label")
    assert sum(cards.nth(index).bounding_box()["height"] for index in range(3)) > SIZES["phone"][1]
    drag(page, cards.nth(2), cards.nth(0), 0.1, touch=True)
    assert cards.first.get_attribute("aria-label") == before.replace("no rank", "rank 1")


def test_escape_cancels_a_drag(open_row):
    page = open_row("Four")
    before = order(page)
    box = page.locator(".handle").nth(2).bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] - 150, steps=4)
    press(page, "Escape")
    page.mouse.up()
    assert order(page) == before and page.locator(".rank.given").count() == 0
