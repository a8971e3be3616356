"""The site of the documentation: it builds without a warning, loads nothing from elsewhere, and is searchable.

`make test-docs` builds it. Tests with the marker `browser` open it in a headless Chromium.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import SIZES, violations_of

ROOT = Path(__file__).parents[2]
SOUGHT = ("resume", "kl_coef", "ShareGPT")
PAGES = ("index.html", "stages/sft.html", "reference/keys.html", "troubleshooting.html", "ppo_explained.html")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The folder of the site, built as `make docs` builds it."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing: pip install 'hfkit[docs]'")
    folder = tmp_path_factory.mktemp("site")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return folder


class Loaded(HTMLParser):
    """What a page loads by itself, and what it links to."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.loaded += [given[name] for name in ("src", "srcset") if given.get(name)]
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(given["href"])
        elif tag == "a" and given.get("href"):
            self.links.append(given["href"])


@pytest.mark.docs
def test_pages_load_nothing_from_elsewhere(site):
    pages = {page: Loaded(page.read_text(encoding="utf-8")).loaded for page in site.rglob("*.html")}
    assert len(pages) > 20 and all(loaded for page, loaded in pages.items() if "repository" not in page.parts)
    assert {url for loaded in pages.values() for url in loaded if re.match(r"(https?:)?//", url)} == set()


@pytest.mark.docs
def test_styles_load_nothing_from_elsewhere(site):
    styles = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    loaded = [
        url
        for text in styles.values()
        for url in re.findall(r"url\(\s*[\"']?([^)\"']+)|@import\s*[\"']([^\"']+)", text)
    ]
    assert styles and [url for pair in loaded for url in pair if re.match(r"(https?:)?//", url)] == []


@pytest.mark.docs
def test_dark_pages_show_dark_pictures(site):
    dark = {f"{path.name}#only-dark" for path in (ROOT / "docs" / "images").glob("*-dark.png")}
    loaded = [url for page in site.rglob("*.html") for url in Loaded(page.read_text(encoding="utf-8")).loaded]
    assert dark and dark <= {url.rpartition("/")[2] for url in loaded}
    light = [url for url in loaded if "which_method.png" in url]
    assert light and all(url.endswith("#only-light") for url in light)


@pytest.mark.docs
@pytest.mark.parametrize("word", SOUGHT)
def test_the_search_index_has_what_readers_look_for(site, word):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert [entry["location"] for entry in index["docs"] if word in entry["title"] + entry["text"]]


@pytest.mark.docs
def test_files_of_the_repository_that_pages_link_to_are_in_the_site(site):
    links = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in site.rglob("*.html")
        for link in Loaded(page.read_text(encoding="utf-8")).links
        if "repository/" in link and "://" not in link
    }
    assert [path for path in links if not path.is_file()] == []


@pytest.mark.slow
def test_links_to_files_outside_the_documentation_lead_to_copies(tmp_path):
    for module in ("mkdocs", "material"):
        pytest.importorskip(module)
    (tmp_path / "docs" / "guides").mkdir(parents=True)
    (tmp_path / "configs" / "small").mkdir(parents=True)
    (tmp_path / "a.ipynb").write_text("{}")
    (tmp_path / "configs" / "small" / "sft.yaml").write_text("seed: 1")
    page = "[a](../../a.ipynb) [folder](../../configs) [file](../../configs/small/sft.yaml) [missing](../../b.ipynb)"
    (tmp_path / "docs" / "guides" / "page.md").write_text(page)
    (tmp_path / "docs" / "index.md").write_text("# Home")
    hooks = ROOT / "docs" / "hooks" / "mkdocs_hooks.py"
    settings = f"site_name: x\nuse_directory_urls: false\nplugins: []\nhooks: [{hooks}]\ntheme: {{name: material}}\n"
    (tmp_path / "mkdocs.yml").write_text(settings)
    ran = subprocess.run([sys.executable, "-m", "mkdocs", "build"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "b.ipynb" in ran.stderr and "a.ipynb" not in ran.stderr
    built = tmp_path / "site"
    links = Loaded((built / "guides" / "page.html").read_text()).links
    assert "../repository/a.ipynb" in links and "../repository/configs/small/sft.yaml.txt" in links
    assert (built / "repository" / "a.ipynb").read_text() == "{}"
    assert (built / "repository" / "configs" / "small" / "sft.yaml.txt").read_text() == "seed: 1"
    folder = built / "repository" / "configs.html"
    assert (folder.parent / Loaded(folder.read_text()).links[0]).is_file()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served(site):
    """The address of the site on a local server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.browser
@pytest.mark.parametrize("word", SOUGHT)
@pytest.mark.parametrize("protocol", ["http", "file"])
def test_typing_into_the_search_box_finds_pages(site, served, open_page, protocol, word):
    page = open_page(f"{served if protocol == 'http' else site.as_uri()}/index.html")
    page.locator("input.md-search__input").click()
    page.keyboard.type(word, delay=20)
    first = page.locator(".md-search-result__item").first
    first.wait_for(timeout=20_000)
    assert word.lower() in first.inner_text().lower()
    first.locator("a").first.click()
    page.wait_for_url(re.compile(r"\.html\?h="))
    assert word.lower() in page.locator("article").inner_text().lower()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_pages_are_accessible(served, open_page, name, scheme):
    assert violations_of(open_page(f"{served}/{name}", scheme=scheme)) == []


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES)
def test_pages_fit_the_screen(site, served, open_page, size, tmp_path):
    wide, width = [], SIZES[size][0]
    page = open_page(f"{served}/index.html", size)
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        page.goto(f"{served}/{name}")
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(name)
        if name in PAGES:
            page.screenshot(path=tmp_path / f"{size}-{name.replace('/', '-')}.png")
    assert wide == []
    assert len(list(tmp_path.glob("*.png"))) == len(PAGES)
