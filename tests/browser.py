"""Fixtures: pages in a headless Chromium, which may load nothing from another machine."""

import re
import shutil

import pytest

SIZES = {"phone": (390, 844), "desktop": (1280, 800)}
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
CHROMIUM += ("--disable-sync", "--no-first-run", "--disable-quic")


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium: the system's, or else that of playwright."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: make test-browser installs it"
    )
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with playwright.sync_playwright() as running:
        try:
            browser = running.chromium.launch(executable_path=path, args=list(CHROMIUM))
        except playwright.Error as error:
            pytest.skip(f"Chromium does not start: {error}")
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Return a function that opens a URL with options of a context; all requests must stay on this machine."""
    contexts, requests, errors = [], [], []

    def open_url(url: str, size: str = "desktop", scheme: str = "light", **options):
        width, height = SIZES[size]
        options = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, **options}
        context = chromium.new_context(**options)
        contexts.append(context)
        context.on("request", lambda request: requests.append(request.url))
        context.on("weberror", lambda error: errors.append(str(error.error)))
        page = context.new_page()
        page.goto(url)
        return page

    yield open_url
    for context in contexts:
        context.close()
    assert (
        requests
        and [url for url in requests if not re.match(r"file:|data:|about:|blob:|http://127\.0\.0\.1[:/]", url)] == []
    )
    assert errors == []


def violations_of(page) -> list[tuple[str, list[str]]]:
    """Return the rules of accessibility that a page breaks, each with its first elements."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    found = axe.Axe().run(page).response
    assert found["passes"]
    return [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found["violations"]]
