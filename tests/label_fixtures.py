"""Servers of `hfkit label`, and pages of one in a browser."""

import re

import pytest
from label_browser import GUIDE, REPLIES, SCRIPT, PageServer, log_in, prompt_row, show_row
from label_pages import LabelServers


@pytest.fixture(scope="session")
def servers():
    """Starts servers of `hfkit label`: one process for all tests, since its imports take seconds."""
    with LabelServers() as started:
        yield started


@pytest.fixture(scope="module")
def page_server(servers, tmp_path_factory):
    """A server on which each labeler gets each row of `REPLIES`."""
    folder = tmp_path_factory.mktemp("label")
    (folder / "guide.md").write_text(GUIDE)
    rows = [prompt_row(SCRIPT if name == "Script" else name, replies) for name, replies in REPLIES.items()]
    return PageServer(servers, folder, rows, overlap=99, guide=folder / "guide.md").start()


@pytest.fixture
def start_server(servers, tmp_path):
    """Return a function that starts a server with own rows and flags."""
    return lambda rows, **flags: PageServer(servers, tmp_path, rows, **flags).start()


@pytest.fixture
def open_row(page_server, open_page, request):
    """Return a function that logs in as a labeler with the name of the test, and opens a row by its prompt."""

    def open_one(prompt: str | None, size: str = "desktop", scheme: str = "light", **options):
        page = open_page(page_server.url, size, scheme, **options)
        log_in(page, labeler)
        if prompt is not None:
            show_row(page, SCRIPT if prompt == "Script" else prompt)
        return page

    labeler = re.sub(r"\W+", "-", request.node.name.removeprefix("test_"))[:40].strip("-")
    open_one.labeler = labeler
    return open_one
