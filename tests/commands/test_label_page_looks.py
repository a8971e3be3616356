"""The page of `hfkit label` in Chromium: what it shows, on which screens, for whom; and its pictures in the docs."""

import os
from pathlib import Path

import pytest
from browser import SIZES, violations_of
from label_browser import (
    CODE,
    PHONE,
    REPLIES,
    SCRIPT,
    PageServer,
    log_in,
    number,
    order,
    press,
    prompt_row,
    rank_by_keys,
    show_row,
    wait_until_saved,
)

pytestmark = pytest.mark.browser


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
def test_the_page_is_accessible(page_server, open_page, open_row, size, scheme):
    page = open_page(page_server.url, size, scheme)
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
    page_server = PageServer(servers, tmp_path, rows, overlap=9, guide=tmp_path / "guide.md").start()
    for size, scheme in ((size, scheme) for size in SIZES for scheme in ("light", "dark")):
        options = {"viewport": {"width": 1180, "height": 740}} if size == "desktop" else PHONE
        page = open_page(page_server.url, size, scheme, **options)
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
        assert image.open(PICTURES / name).size == image.open(tmp_path / name).size
        assert page.locator(".card .rank.given").count() == len(PICTURED)
