"""The page of `hfkit label` in Chromium: a server that goes away, login, and many rows."""

import random
import time
from urllib.parse import urlsplit

import pytest
from label_browser import (
    log_in,
    order,
    press,
    prompt_row,
    submit,
    wait_until_saved,
)

pytestmark = pytest.mark.browser


def test_nothing_is_lost_or_repeated_when_the_server_is_killed(start_server, open_page):
    choose, wanted = random.Random(0), {}
    kills = {9: "before", 20: "during", 31: "closed", 42: "during", 53: "before"}
    rows = [prompt_row(f"Question {index}", [f"{index} a", f"{index} b", f"{index} c"]) for index in range(30)]
    page_server = start_server(rows, overlap=2)
    pages = {name: open_page(page_server.url) for name in ("Ada", "Bob")}
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
            page_server.kill()
        press(page, "Enter")
        if way == "during":
            page_server.kill()
        elif way:
            page.locator("#banner", has_text="Not saved yet").wait_for()
        if way == "closed":
            page.close()
        if way:
            page_server.start()
        if way == "closed":
            pages[name] = page.context.new_page()
            pages[name].goto(page_server.url)
            pages[name].locator("#prompt .text").first.wait_for()
    for page in pages.values():
        page.locator("#done").wait_for(timeout=120_000)
    events = page_server.events()
    assert len(events) == len({event["id"] for event in events}) == 60
    assert {(event["labeler"], event["row"]): event["ranks"] for event in events} == wanted
    assert all(
        page.evaluate("Object.keys(localStorage).every(name => !/pending|draft/.test(name))") for page in pages.values()
    )


def test_a_rejected_judgement_is_reported_and_stays_on_the_screen(page_server, open_row):
    page = open_row("Two")
    page.route("**/api/judgements", lambda route: route.fulfill(status=422, json={"error": "no such flag"}))
    press(page, "1", "Enter")
    page.locator("#banner", has_text="Rejected: no such flag").wait_for()
    assert page.locator(".rank.given").count() == 2
    page.unroute("**/api/judgements")
    submit(page)
    assert len(page_server.events(open_row.labeler)) == 1


def test_a_row_that_is_gone_is_reported_and_the_next_one_opens(open_row):
    page = open_row("Two")
    page.goto(f"{page.url}?gone#000000000000")
    page.locator("#banner", has_text="no such row").wait_for()
    assert page.locator("#prompt").inner_text()


def test_the_page_waits_for_its_server(start_server, open_page):
    page_server = start_server([prompt_row("Hi", ["a", "b"])])
    page = open_page(page_server.url)
    page.get_by_label("Name").fill("Ada")
    page_server.kill()
    page.get_by_role("button", name="Start").click()
    page.locator("#banner", has_text="Waiting for the server").wait_for()
    page_server.start()
    page.locator("#prompt", has_text="Hi").wait_for()
    assert not page.locator("#banner").is_visible()


# Login, speed


def test_login_with_a_password(start_server, open_page, tmp_path):
    password = tmp_path / "password.txt"
    password.write_text("correct horse")
    password.chmod(0o600)
    page_server = start_server([prompt_row("Hi", ["a", "b"])], password_file=password)
    page = open_page(page_server.url)
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
    assert [event["ranks"] is None for event in page_server.events("Ada")] == [False]


def test_opening_200_rows_loads_one(start_server, open_page, record_property):
    rows = [prompt_row(f"Question {index}", [f"{index} {name} " * 50 for name in "abcd"]) for index in range(200)]
    page_server = start_server(rows)
    page = open_page(page_server.url)
    log_in(page, "Ada")
    seconds, loaded = [], []
    page.on("response", lambda response: loaded.append(response))
    for _ in range(3):
        loaded.clear()
        started = time.monotonic()
        page.reload()
        page.locator(".card").nth(3).wait_for()
        seconds.append(round(time.monotonic() - started, 3))
    record_property("seconds", seconds)
    print(f"open: {seconds} s")
    paths = [urlsplit(response.url).path for response in loaded]
    assert [path for path in paths if path.startswith("/api/")] == ["/api/setup", "/api/next"]
    assert page.locator(".card").count() == 4
