"""The page of `hfkit label`, in a headless Chromium against a real server: by keys, mouse and touch."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import SIZES, violations_of
from conftest import write_rows
from label_pages import LabelServers

pytestmark = pytest.mark.browser
SCRIPT = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\"> What is this?"
CODE = "Here it is:\n\n```python\ndef f(values):\n    return values[::-1]\n```\n\nIt copies the list."
LONG = "\n\n".join("Some words that fill a paragraph of a long response. " * 12 for _ in range(17))
REPLIES = {
    "Four": ["alpha", "beta", "gamma", "delta"],
    "Two": ["left", "right"],
    "Script": [SCRIPT, CODE],
    "Arabic: مرحبا، كيف حالك؟": ["بخير، شكرا. 🌍🚀", "Fine, thanks.", "x" * 400],
    "Long": [LONG, "short", LONG[:900]],
    "Nine": [f"Reply {index}. " + "More words. " * index for index in range(9)],
    "One": ["Only this."],
    "Prompt alone": [],
}
GUIDE = "# Rules\n\nRank by *help*. <b id='injected'>no</b>\n\n- [policy](https://example.com/x)\n- `unsafe`: harms"
PHONE = {"is_mobile": True, "has_touch": True}


class Server:
    """`hfkit label` on a port that stays the same when it is killed and started again."""

    def __init__(self, servers: LabelServers, folder: Path, rows: list[dict], **flags: object):
        self.servers, self.folder, self.port, self.running = servers, folder, 0, None
        given = [word for name, value in flags.items() for word in (f"--{name}", value)]
        self.argv = [write_rows(folder / "rows.jsonl", rows), "--output_dir", folder / "labels", *given]

    def start(self) -> "Server":
        """Start it, and wait until it listens."""
        output = self.folder / "printed.txt"
        output.unlink(missing_ok=True)
        self.running = self.servers.start(*self.argv, "--port", self.port, output=output)
        self.port = urlsplit(self.running.url).port
        return self

    @property
    def url(self) -> str:
        return self.running.url

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.running.end(signal.SIGKILL)

    def events(self, labeler: str | None = None) -> list[dict]:
        """Return the saved events, of all labelers or of one."""
        path = self.folder / "labels" / "judgements.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if labeler in (None, event["labeler"])]


def prompt_row(prompt: str, replies: list[str]) -> dict:
    return {"prompt": [{"role": "user", "content": prompt}], "replies": replies}


@pytest.fixture(scope="module")
def server(servers, tmp_path_factory):
    """A server on which each labeler gets each row of `REPLIES`."""
    folder = tmp_path_factory.mktemp("label")
    (folder / "guide.md").write_text(GUIDE)
    rows = [prompt_row(SCRIPT if name == "Script" else name, replies) for name, replies in REPLIES.items()]
    return Server(servers, folder, rows, overlap=99, guide=folder / "guide.md").start()


@pytest.fixture
def start_server(servers, tmp_path):
    """Return a function that starts a server with own rows and flags."""
    return lambda rows, **flags: Server(servers, tmp_path, rows, **flags).start()


@pytest.fixture
def open_row(server, open_page, request):
    """Return a function that logs in as a labeler with the name of the test, and opens a row by its prompt."""

    def open_one(prompt: str | None, size: str = "desktop", scheme: str = "light", **options):
        page = open_page(server.url, size, scheme, **options)
        log_in(page, labeler)
        if prompt is not None:
            show_row(page, SCRIPT if prompt == "Script" else prompt)
        return page

    labeler = re.sub(r"\W+", "-", request.node.name.removeprefix("test_"))[:40].strip("-")
    open_one.labeler = labeler
    return open_one


def log_in(page, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Start").click()
    page.locator("#prompt .text, #done:not([hidden])").first.wait_for()


def show_row(page, prompt: str) -> None:
    """Open a row by its address, as one does to change a judgement."""
    row = page.evaluate(
        """async (prompt) => {
          for (const seen = []; ; ) {
            const query = seen.map((row) => `except=${row}`).join("&");
            const { row } = await (await fetch(`/api/next?${query}`)).json();
            if (row.prompt.at(-1).content.startsWith(prompt)) return row.row;
            seen.push(row.row);
          }
        }""",
        prompt,
    )
    page.goto(f"{page.url.split('#')[0]}?{row}#{row}")
    page.locator(f"#work[data-row='{row}']").wait_for()
    wait_until_saved(page)


def wait_until_saved(page) -> None:
    page.locator("body:not(.busy)").wait_for(timeout=120_000)


def card(page, text: str):
    """Return the card of the response with a text."""
    return page.locator(".card").filter(has=page.get_by_text(text, exact=True))


def number(page, text: str) -> str:
    """Return the number of the response with a text, as it is shown."""
    return re.search(r"Response (\d)", card(page, text).get_attribute("aria-label")).group(1)


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def rank_by_keys(page, *texts: str) -> None:
    press(page, *(number(page, text) for text in texts))


def submit(page) -> None:
    """Submit by the button, and wait until another row or the end is there."""
    row = page.locator("#work").get_attribute("data-row")
    page.get_by_role("button", name="Submit").click()
    page.locator(f"#work:not([data-row='{row}']), #done:not([hidden])").first.wait_for(state="attached")


def order(page) -> list[str]:
    return page.locator(".card .text").all_inner_texts()


# Rank


def test_keys_rank_the_responses_from_best_to_worst(server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "gamma", "alpha", "delta")
    assert order(page) == ["gamma", "alpha", "delta", "beta"]
    assert card(page, "beta").get_attribute("aria-label") == f"Response {number(page, 'beta')}, rank 4"
    press(page, "Enter")
    page.locator("#live", has_text="Saved.").wait_for(state="attached")
    (event,) = server.events(open_row.labeler)
    assert event["ranks"] == [2, 4, 1, 3]
    assert (event["kind"], event["all_bad"], event["answer"], event["flags"]) == ("judgement", False, None, [[]] * 4)
    assert 0 <= event["seconds"] < 60


def test_keys_move_and_tie(server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "alpha", "beta", "gamma")
    press(page, number(page, "delta"), "Shift+ArrowUp", "Shift+ArrowUp", "t")
    assert order(page) == ["alpha", "delta", "beta", "gamma"]
    assert card(page, "delta").get_attribute("aria-label") == f"Response {number(page, 'delta')}, rank 1, tied"
    press(page, "ArrowDown", "Shift+ArrowDown")
    submit(page)
    assert server.events(open_row.labeler)[-1]["ranks"] == [1, 4, 3, 1]


def test_a_tie_can_be_taken_back_and_ranks_cleared(server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "alpha", "beta")
    press(page, "t", "t")
    assert page.locator("li.tie").count() == 0
    press(page, "Backspace", number(page, "gamma"), "r")
    assert page.get_by_label("Ranked, best first").locator("li").count() == 3
    submit(page)
    assert server.events(open_row.labeler)[-1]["ranks"] == [1, 3, 2, 3]


def test_circles_rank_and_clear(server, open_row):
    page = open_row("Four", "phone", **PHONE)
    for text in ("beta", "delta", "alpha"):
        card(page, text).locator(".rank").tap()
    card(page, "delta").locator(".rank").tap()  # clears it and those below
    assert page.locator("#state").inner_text() == "3 left to rank"
    card(page, "gamma").locator(".rank").tap()
    page.get_by_role("button", name="Tie the rest").tap()
    submit(page)
    assert server.events(open_row.labeler)[-1]["ranks"] == [3, 1, 2, 3]


def test_buttons_move_by_mouse(server, open_row):
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
def test_dragging_ranks_and_ties(server, open_row, touch, part, ranks):
    page = open_row("Two", "phone", **PHONE) if touch else open_row("Two")
    shown = order(page)
    drag(page, card(page, shown[1]), card(page, shown[0]), part, touch)
    submit(page)
    event = server.events(open_row.labeler)[-1]
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


# Answers, flags, notes


def test_all_bad(server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "alpha")
    press(page, "b")
    assert page.get_by_role("button", name="All bad").get_attribute("aria-pressed") == "true"
    submit(page)
    event = server.events(open_row.labeler)[-1]
    assert (event["all_bad"], event["ranks"]) == (True, None)


def test_an_answer_starts_from_the_best_response(server, open_row):
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
    event = server.events(open_row.labeler)[-1]
    assert (event["answer"], event["ranks"]) == ("1 better s u t b", [2, 1, 3, 4])


def test_an_answer_that_equals_a_response_is_not_saved(server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "beta", "alpha", "gamma")
    press(page, "e", "Escape", "Enter")
    page.locator("#live", has_text="Saved.").wait_for(state="attached")
    assert server.events(open_row.labeler)[-1]["answer"] is None


def test_flags_and_a_note(server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "beta", "alpha", "gamma")
    press(page, number(page, "alpha"), "f", "2", "1", "Escape")
    card(page, "delta").get_by_role("button", name="Flag Response").click()
    card(page, "delta").get_by_role("button", name="format").click()
    assert card(page, "alpha").get_attribute("aria-label").endswith("rank 2, flags: unsafe, wrong")
    press(page, "n")
    page.keyboard.type("unclear question")
    submit(page)
    event = server.events(open_row.labeler)[-1]
    assert event["flags"] == [["unsafe", "wrong"], [], [], ["format"]] and event["note"] == "unclear question"


def test_a_prompt_alone_takes_only_an_answer(server, open_row):
    page = open_row("Prompt alone")
    assert not page.locator("#responses").is_visible() and not page.locator("#bad").is_visible()
    page.get_by_role("button", name="Submit").click()
    assert page.locator("#state").inner_text() == "Write the answer" and server.events(open_row.labeler) == []
    page.get_by_label("Ideal answer").fill("An answer.")
    submit(page)
    event = server.events(open_row.labeler)[-1]
    assert (event["answer"], event["ranks"]) == ("An answer.", None)


def test_one_response_is_approved_or_bad(server, open_row):
    page = open_row("One")
    assert page.locator(".handle, .rank, .tie").count() == 0
    submit(page)
    show_row_again(page, server.events(open_row.labeler)[-1]["row"])
    press(page, "b")
    submit(page)
    assert [(event["ranks"], event["all_bad"]) for event in server.events(open_row.labeler)] == [
        ([1], False),
        ([1], True),
    ]


def show_row_again(page, row: str) -> None:
    page.goto(f"{page.url.split('#')[0]}?again#{row}")
    page.locator(f"#work[data-row='{row}']").wait_for()


def test_an_incomplete_ranking_is_not_submitted(server, open_row):
    page = open_row("Four")
    press(page, "Enter", "1", "Enter")
    page.locator("#live", has_text="3 left to rank first.").wait_for(state="attached")
    assert server.events(open_row.labeler) == [] and page.locator("#prompt").inner_text() == "Four"


# Undo, skip, reload


def test_undo_opens_the_last_judgement_again(server, open_row):
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
    events = server.events(open_row.labeler)
    assert [event["kind"] for event in events] == ["judgement", "undo", "judgement"]
    assert events[-1]["ranks"] == [1, 4, 3, 2] and len({event["row"] for event in events}) == 1


def test_skip_and_undo(server, open_row):
    page = open_row(None)
    row = page.locator("#work").get_attribute("data-row")
    press(page, "s")
    page.locator("#live", has_text="Skipped.").wait_for(state="attached")
    assert page.locator("#work").get_attribute("data-row") != row
    assert "2 of" in page.locator("#count").inner_text()
    press(page, "Escape", "u")
    page.locator(f"#work[data-row='{row}']").wait_for()
    assert [event["kind"] for event in server.events(open_row.labeler)] == ["skip", "undo"]


def test_a_reload_keeps_what_is_not_submitted(server, open_row):
    page = open_row("Four")
    rank_by_keys(page, "gamma", "beta")
    press(page, "t", "f", "1", "Escape", "e")
    page.keyboard.type(" improved")
    row = page.locator("#work").get_attribute("data-row")
    page.goto("about:blank")
    page.goto(f"{server.url}/#{row}")
    page.locator(f"#work[data-row='{row}']").wait_for()
    assert order(page)[:2] == ["gamma", "beta"] and page.locator("li.tie").count() == 1
    assert page.get_by_label("Ideal answer").input_value() == "gamma improved"
    assert page.locator("#labeler").inner_text() == open_row.labeler


def test_the_time_stops_while_the_page_is_hidden(server, open_row):
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


def test_keys_of_one_character_can_be_turned_off(server, open_row):
    page = open_row("Two")
    press(page, "?")
    page.get_by_label("Keys of one character are on").uncheck()
    page.get_by_role("button", name="Close").click()
    press(page, "1", "s", "b")
    assert page.locator(".rank.given").count() == 0 and server.events(open_row.labeler) == []
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


# A server that goes away


def test_nothing_is_lost_or_repeated_when_the_server_is_killed(start_server, open_page):
    choose, wanted = random.Random(0), {}
    kills = {9: "before", 20: "during", 31: "closed", 42: "during", 53: "before"}
    rows = [prompt_row(f"Question {index}", [f"{index} a", f"{index} b", f"{index} c"]) for index in range(30)]
    server = start_server(rows, overlap=2)
    pages = {name: open_page(server.url) for name in ("Ada", "Bob")}
    for name, page in pages.items():
        log_in(page, name)
    for step in range(60):
        name = ("Ada", "Bob")[step % 2]
        page = pages[name]
        wait_until_saved(page)
        row = page.locator("#work").get_attribute("data-row")
        shown = order(page)
        first, second = choose.sample(range(3), 2)
        (third,) = {0, 1, 2} - {first, second}
        wanted[name, row] = [{first: 1, second: 2, third: 3}[shown.index(text)] for text in sorted(shown)]
        press(page, str(first + 1), str(second + 1))
        way = kills.get(step)
        if way in ("before", "closed"):
            server.kill()
        press(page, "Enter")
        if way == "during":
            server.kill()
        elif way:
            page.locator("#banner", has_text="Not saved yet").wait_for()
        if way == "closed":
            page.close()
        if way:
            server.start()
        if way == "closed":
            pages[name] = page.context.new_page()
            pages[name].goto(server.url)
            pages[name].locator("#prompt .text").first.wait_for()
    for page in pages.values():
        page.locator("#done").wait_for(timeout=120_000)
    events = server.events()
    assert len(events) == len({event["id"] for event in events}) == 60
    assert {(event["labeler"], event["row"]): event["ranks"] for event in events} == wanted
    assert all(
        page.evaluate("Object.keys(localStorage).every(name => !/pending|draft/.test(name))") for page in pages.values()
    )


def test_a_rejected_judgement_is_reported_and_stays_on_the_screen(server, open_row):
    page = open_row("Two")
    page.route("**/api/judgements", lambda route: route.fulfill(status=422, json={"error": "no such flag"}))
    press(page, "1", "Enter")
    page.locator("#banner", has_text="Rejected: no such flag").wait_for()
    assert page.locator(".rank.given").count() == 2
    page.unroute("**/api/judgements")
    submit(page)
    assert len(server.events(open_row.labeler)) == 1


def test_a_row_that_is_gone_is_reported_and_the_next_one_opens(open_row):
    page = open_row("Two")
    page.goto(f"{page.url}?gone#000000000000")
    page.locator("#banner", has_text="no such row").wait_for()
    assert page.locator("#prompt").inner_text()


def test_the_page_waits_for_its_server(start_server, open_page):
    server = start_server([prompt_row("Hi", ["a", "b"])])
    page = open_page(server.url)
    page.get_by_label("Name").fill("Ada")
    server.kill()
    page.get_by_role("button", name="Start").click()
    page.locator("#banner", has_text="Waiting for the server").wait_for()
    server.start()
    page.locator("#prompt", has_text="Hi").wait_for()
    assert not page.locator("#banner").is_visible()


# Login, speed


def test_login_with_a_password(start_server, open_page, tmp_path):
    password = tmp_path / "password.txt"
    password.write_text("correct horse")
    password.chmod(0o600)
    server = start_server([prompt_row("Hi", ["a", "b"])], password_file=password)
    page = open_page(server.url)
    page.get_by_label("Name").fill("Ada")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("alert").filter(has_text="wrong password").wait_for()
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("button", name="Start").click()
    page.locator("#prompt", has_text="Hi").wait_for()
    page.context.clear_cookies()
    press(page, "1", "Enter")
    page.get_by_text("Log in again to go on. Nothing is lost.").wait_for()
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("button", name="Start").click()
    page.locator("#done").wait_for()
    assert [event["ranks"] is None for event in server.events("Ada")] == [False]


def test_200_rows_open_within_two_seconds(start_server, open_page, record_property):
    rows = [prompt_row(f"Question {index}", [f"{index} {name} " * 50 for name in "abcd"]) for index in range(200)]
    server = start_server(rows)
    page = open_page(server.url)
    log_in(page, "Ada")
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        page.reload()
        page.locator(".card").nth(3).wait_for()
        seconds.append(time.monotonic() - started)
    record_property("seconds", [round(one, 3) for one in seconds])
    print(f"open: {seconds}")
    assert min(seconds) <= 2


# How it looks


def test_html_is_shown_as_text(open_row):
    page = open_row("Script")
    assert page.locator("#prompt").inner_text() == SCRIPT and SCRIPT in order(page)
    assert page.title() != "hacked" and page.locator("#work :is(script, img)").count() == 0
    assert page.locator("#injected").count() == 0 and "<b id='injected'>" in page.locator("#guide").inner_text()
    link = page.locator("#guide a")
    assert (link.get_attribute("href"), link.get_attribute("rel")) == ("https://example.com/x", "noopener noreferrer")


def test_a_text_is_shown_letter_by_letter(open_row):
    page = open_row("Script")
    assert CODE in page.locator(".card .text").evaluate_all("nodes => nodes.map(node => node.textContent)")
    assert page.locator(".block").evaluate("node => getComputedStyle(node).whiteSpace") in ("pre-wrap", "preserve")
    page = open_row("Arabic")
    arabic = page.locator(".card .text").filter(has_text="شكرا")
    left, right = arabic.evaluate(
        """node => {
          const range = document.createRange(), own = node.getBoundingClientRect();
          range.selectNodeContents(node);
          const text = range.getClientRects()[0];
          return [text.left - own.left, own.right - text.right];
        }"""
    )
    assert right < 2 < left


def test_a_long_text_can_be_opened(open_row):
    page = open_row("Long")
    long = page.locator(".card", has_text="paragraph").first
    assert long.bounding_box()["height"] < 500
    long.focus()
    press(page, "x")
    assert long.bounding_box()["height"] > 500


@pytest.mark.parametrize("prompt", ["Four", "Script", "Arabic", "Long", "Nine", "One", "Prompt alone"])
def test_pages_fit_a_narrow_phone(open_row, prompt):
    page = open_row(prompt, "phone", viewport={"width": 360, "height": 700}, **PHONE)
    if prompt != "Prompt alone":
        press(page, "1", "f", "e", "Escape", "n")
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    small = page.locator("button:visible").evaluate_all(
        "all => all.filter(one => one.getBoundingClientRect().height < 44 || one.getBoundingClientRect().width < 44)"
        ".map(one => one.outerHTML)"
    )
    assert small == []
    bar = page.locator("#actions").bounding_box()
    assert bar["y"] + bar["height"] == 700


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_is_accessible(server, open_page, open_row, size, scheme):
    page = open_page(server.url, size, scheme)
    page.get_by_label("Name").wait_for()
    found = {"login": violations_of(page)}
    page = open_row("Nine", size, scheme)
    found["unranked"] = violations_of(page)
    press(page, "1", "2", "t", "3", "f", "1", "e")
    found["ranked"] = violations_of(page)
    press(page, "Escape", "b", "n")
    page.route("**/api/judgements", lambda route: route.fulfill(status=422, json={"error": "no"}))
    press(page, "Control+Enter")
    page.locator("#banner", has_text="Rejected").wait_for()
    found["all bad"] = violations_of(page)
    page.unroute("**/api/judgements")
    press(page, "Escape", "?")
    found["help"] = violations_of(page)
    press(page, "Escape")
    show_row(page, "Prompt alone")
    found["prompt alone"] = violations_of(page)
    for _ in REPLIES:
        page.get_by_role("button", name="Skip").click()
        wait_until_saved(page)
    page.locator("#done").wait_for()
    found["done"] = violations_of(page)
    assert found == {name: [] for name in found}


# The pictures of the documentation

PICTURES = Path(__file__).parents[2] / "docs" / "images"
PICTURED = [
    "Sunlight looks white, but it is a mix of all colors. Air scatters blue light more than red light, so blue reaches "
    "your eyes from all over the sky.",
    "Because of Rayleigh scattering: its intensity grows with the inverse fourth power of the wavelength.",
    "The sky is blue because it reflects the ocean.",
]
PICTURED_GUIDE = """# How to judge

Rank by how much a response **helps** the person who asked.

1. Is it correct?
2. Does it fit the question?
3. Is it easy to read?

Tie responses if you prefer neither.
"""


@pytest.mark.skipif(os.environ.get("HFKIT_WRITE_PICTURES") != "1", reason="writes docs/images/label*.png")
def test_write_the_pictures(servers, open_page, tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "guide.md").write_text(PICTURED_GUIDE)
    prompt = "Why is the sky blue? Explain it to a child of ten."
    rows = [prompt_row(prompt, PICTURED)] + [prompt_row(f"{index}", ["a", "b"]) for index in range(39)]
    server = Server(servers, tmp_path, rows, overlap=9, guide=tmp_path / "guide.md").start()
    for size, scheme in ((size, scheme) for size in SIZES for scheme in ("light", "dark")):
        options = {"viewport": {"width": 1180, "height": 740}} if size == "desktop" else PHONE
        page = open_page(server.url, size, scheme, **options)
        log_in(page, f"Ada {size} {scheme}")
        for _ in range(9):
            press(page, "s")
            wait_until_saved(page)
        show_row(page, prompt)
        rank_by_keys(page, PICTURED[0])
        press(page, number(page, PICTURED[2]), "f", "2", "Escape")
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0); labeler.textContent = 'Ada'")
        page.wait_for_timeout(300)
        name = f"label{'' if size == 'desktop' else '-phone'}{'-dark' if scheme == 'dark' else ''}.png"
        page.screenshot(path=tmp_path / name)
        image.open(tmp_path / name).convert("RGB").quantize(128).save(PICTURES / name, optimize=True)
