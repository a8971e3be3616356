"""The page of `hfkit label` in Chromium: answers, flags and notes; undo, skip and reload."""

import pytest
from label_browser import card, number, order, press, rank_by_keys, submit

pytestmark = pytest.mark.browser


def test_all_bad(page_server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "alpha")
    press(page, "b")
    assert page.get_by_role("button", name="All bad").get_attribute("aria-pressed") == "true"
    submit(page)
    event = page_server.events(open_row.labeler)[-1]
    assert (event["all_bad"], event["ranks"]) == (True, None)


def test_an_answer_starts_from_the_best_response(page_server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "beta", "alpha", "gamma")
    page.get_by_role("button", name="Write the ideal answer").click()
    field = page.get_by_label("Ideal answer")
    assert field.input_value() == "beta"
    card(page, "gamma").get_by_role("button", name="Edit").click()
    assert field.input_value() == "gamma" and "Same as a response" in page.locator("#answer-state").inner_text()
    field.fill("1 better s u t b")
    press(page, "Control+Enter")
    page.locator("#live", has_text="Saved.").wait_for(state="attached")
    event = page_server.events(open_row.labeler)[-1]
    assert (event["answer"], event["ranks"]) == ("1 better s u t b", [2, 1, 3, 4])


def test_an_answer_that_equals_a_response_is_not_saved(page_server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "beta", "alpha", "gamma")
    press(page, "e", "Escape", "Enter")
    page.locator("#live", has_text="Saved.").wait_for(state="attached")
    assert page_server.events(open_row.labeler)[-1]["answer"] is None


def test_flags_and_a_note(page_server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "beta", "alpha", "gamma")
    press(page, number(page, "alpha"), "f", "2", "1", "Escape")
    card(page, "delta").get_by_role("button", name="Flag Response").click()
    card(page, "delta").get_by_role("button", name="format").click()
    assert card(page, "alpha").get_attribute("aria-label").endswith("rank 2, flags: unsafe, wrong")
    press(page, "n")
    page.keyboard.type("unclear question")
    submit(page)
    event = page_server.events(open_row.labeler)[-1]
    assert event["flags"] == [["unsafe", "wrong"], [], [], ["format"]] and event["note"] == "unclear question"


def test_a_prompt_alone_takes_only_an_answer(page_server, open_row):
    page = open_row("Prompt alone")
    assert not page.locator("#responses").is_visible() and not page.locator("#bad").is_visible()
    page.get_by_role("button", name="Submit").click()
    assert page.locator("#state").inner_text() == "Write the answer" and page_server.events(open_row.labeler) == []
    page.get_by_label("Ideal answer").fill("An answer.")
    submit(page)
    event = page_server.events(open_row.labeler)[-1]
    assert (event["answer"], event["ranks"]) == ("An answer.", None)


def test_one_response_is_good_or_bad(page_server, open_row):
    page = open_row("One")
    good, bad = (page.get_by_role("button", name=name, exact=True) for name in ("Good g", "Bad b"))
    assert page.locator(".handle, .rank, .tie").count() == 0
    press(page, "Enter")  # alone, it approves of nothing
    page.locator("#live", has_text="Mark as good or bad first.").wait_for(state="attached")
    assert page_server.events(open_row.labeler) == []
    press(page, "b", "g")
    assert [one.get_attribute("aria-pressed") for one in (good, bad)] == ["true", "false"]
    submit(page)
    row = page_server.events(open_row.labeler)[-1]["row"]
    show_row_again(page, row)
    assert good.get_attribute("aria-pressed") == "true"
    bad.click()
    submit(page)
    show_row_again(page, row)
    press(page, "b", "e")
    page.keyboard.type(" Corrected.")
    submit(page)
    found = [(event["ranks"], event["all_bad"], event["answer"]) for event in page_server.events(open_row.labeler)]
    assert found == [([1], False, None), ([1], True, None), ([1], False, "Only this. Corrected.")]


def test_good_is_only_for_one_response(open_row):
    page = open_row("Two")
    assert not page.get_by_role("button", name="Good g", exact=True).is_visible()
    press(page, "g")
    assert page.locator("#state").inner_text() == "Rank the responses"


def show_row_again(page, row: str) -> None:
    page.goto(f"{page.url.split('#')[0]}?again#{row}")
    page.locator(f"#work[data-row='{row}']").wait_for()


def test_an_incomplete_ranking_is_not_submitted(page_server, open_row):
    page = open_row("Four")
    press(page, "Enter", "1", "Enter")
    page.locator("#live", has_text="3 left to rank first.").wait_for(state="attached")
    assert page_server.events(open_row.labeler) == [] and page.locator("#prompt").inner_text() == "Four"


def test_undo_opens_the_last_judgement_again(page_server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "delta", "alpha", "gamma")
    press(page, number(page, "alpha"), "f", "3", "Escape", "e")
    page.keyboard.type(" and more")
    submit(page)
    press(page, "u")
    page.locator("#live", has_text="open again").wait_for(state="attached")
    assert order(page) == ["delta", "alpha", "gamma", "beta"]
    assert page.get_by_label("Ideal answer").input_value() == "delta and more"
    assert page.locator(".chip[aria-pressed=true]").inner_text().endswith("off-topic")
    rank_by_keys(page, "delta")
    press(page, "Shift+ArrowDown")
    submit(page)
    events = page_server.events(open_row.labeler)
    assert [event["kind"] for event in events] == ["judgement", "undo", "judgement"]
    assert events[-1]["ranks"] == [1, 4, 3, 2] and len({event["row"] for event in events}) == 1


def test_skip_and_undo(page_server, open_row):
    page = open_row(None)
    row = page.locator("#work").get_attribute("data-row")
    press(page, "s")
    page.locator("#live", has_text="Skipped.").wait_for(state="attached")
    assert page.locator("#work").get_attribute("data-row") != row
    assert "2 of" in page.locator("#count").inner_text()
    press(page, "Escape", "u")
    page.locator(f"#work[data-row='{row}']").wait_for()
    assert [event["kind"] for event in page_server.events(open_row.labeler)] == ["skip", "undo"]


def test_a_reload_keeps_what_is_not_submitted(page_server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "gamma", "beta")
    press(page, "t", "f", "1", "Escape", "e")
    page.keyboard.type(" improved")
    row = page.locator("#work").get_attribute("data-row")
    page.goto("about:blank")
    page.goto(f"{page_server.url}/#{row}")
    page.locator(f"#work[data-row='{row}']").wait_for()
    assert order(page)[:2] == ["gamma", "beta"] and page.locator("li.tie").count() == 1
    assert page.get_by_label("Ideal answer").input_value() == "gamma improved"
    assert page.locator("#labeler").inner_text() == open_row.labeler


def test_the_time_stops_while_the_page_is_hidden(page_server, open_row):
    page = open_row("Two")
    page.evaluate(
        """() => {
          Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    started = page.locator("#timer").inner_text()
    page.wait_for_timeout(2500)
    assert page.locator("#timer").inner_text() == started
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.locator("#timer:not(:text('0:00'))").wait_for()


def test_keys_of_one_character_can_be_turned_off(page_server, open_row):
    page = open_row("Two")
    press(page, "?")
    page.get_by_label("Keys of one character are on").uncheck()
    page.get_by_role("button", name="Close").click()
    press(page, "1", "s", "b")
    assert page.locator(".rank.given").count() == 0 and page_server.events(open_row.labeler) == []
    press(page, "ArrowDown", "Shift+ArrowDown", "Enter")
    page.locator("#live", has_text="Saved.").wait_for(state="attached")


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_reduced_motion_is_respected(open_row, motion):
    page = open_row("Four", reduced_motion=motion)
    moving = page.evaluate(
        """() => {
          document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "4", bubbles: true, cancelable: true }));
          return document.getAnimations().length;
        }"""
    )
    assert page.locator(".rank.given").count() == 1 and (moving > 0) == (motion != "reduce")
