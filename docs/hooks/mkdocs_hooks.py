"""Hooks of mkdocs.yml: the pages that code generates, and links from pages to files of the repository."""

import posixpath
import re
from html import escape
from pathlib import Path

from command_help import commands_page
from config_keys import keys_page
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url
from python_api import python_page

GENERATED = {"keys.md": keys_page, "commands.md": commands_page, "python.md": python_page}
WORKER = "https://unpkg.com/iframe-worker/shim"
"""Material's offline plugin loads this; docs/assets/worker.js does the same."""
SEARCH = '<div class="md-search" data-md-component="search" role="dialog"'
LINK = re.compile(r"(?<=\]\()(?:\.\./)+[^)#\s]+")


def on_files(files, config):
    """Add the pages of the reference."""
    for name, write in GENERATED.items():
        files.append(File.generated(config, f"reference/{name}", content=write()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Copy what a page links to outside docs/ into the site, and let the link lead there."""
    docs = Path(config.docs_dir)

    def replace(found: re.Match) -> str:
        target = (docs / page.file.src_uri).parent.joinpath(found[0]).resolve()
        if target.is_relative_to(docs) or not target.is_relative_to(docs.parent) or not target.exists():
            return found[0]  # a page, or a broken link, which --strict reports
        return get_relative_url(add_copy(target, docs.parent, files, config), page.file.src_uri)

    return LINK.sub(replace, markdown)


def on_page_content(html, page, config, files):
    """Let a dark page show NAME-dark.png for NAME.png, and let no cell of a table's head be empty."""

    def both(found: re.Match) -> str:
        dark = found[2].replace(".png", "-dark.png")
        if files.get_file_from_path(posixpath.normpath(f"{page.file.src_uri}/../{dark}")) is None:
            return found[0]
        return "".join(f"{found[1]}{image}{found[3]}" for image in (f"{found[2]}#only-light", f"{dark}#only-dark"))

    html = re.sub(r'(<img [^>]*src=")([^"#]+\.png)("[^>]*>)', both, html)
    return re.sub(r"<th( [^>]*)?></th>", "<td></td>", html)


def on_post_page(output, page, config):
    """Let a page load the script of the search from the site, and name the search for screen readers."""
    return completed(output, get_relative_url("assets/worker.js", page.url))


def on_post_template(output_content, template_name, config):
    """Do the same for 404.html."""
    return completed(output_content, "assets/worker.js")


def completed(output: str, worker: str) -> str:
    """Return a page with what Material's templates lack."""
    return output.replace(WORKER, worker).replace(SEARCH, f'{SEARCH} aria-label="Search"')


def add_copy(target: Path, root: Path, files, config) -> str:
    """Add a file of the repository to the site, or a page that lists a folder; return its URI.

    Text gets the suffix .txt, so that browsers show it.
    """
    suffix = ".html" if target.is_dir() else "" if target.suffix in (".ipynb", ".png") else ".txt"
    uri = f"repository/{target.relative_to(root).as_posix()}{suffix}"
    if files.get_file_from_path(uri) is None:
        if target.is_dir():
            inner = [path for path in sorted(target.iterdir()) if not path.name.startswith((".", "_"))]
            links = [get_relative_url(add_copy(path, root, files, config), uri) for path in inner]
            items = [f'<li><a href="{link}">{escape(path.name)}</a>' for link, path in zip(links, inner, strict=True)]
            title = escape(target.relative_to(root).as_posix())
            page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><h1>{title}</h1><ul>"
            files.append(File.generated(config, uri, content=page + "".join(items) + "</ul></html>"))
        else:
            files.append(File.generated(config, uri, abs_src_path=str(target)))
    return uri
