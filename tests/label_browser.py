"""The page of `hfkit label` in a browser: its server, the rows on it, and what a person does."""

import json
import re
import signal
from pathlib import Path
from urllib.parse import urlsplit

from conftest import write_rows
from label_pages import LabelServers

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


class PageServer:
    """`hfkit label` on a port that stays the same when it is killed and started again."""

    def __init__(self, servers: LabelServers, folder: Path, rows: list[dict], **flags: object):
        self.servers, self.folder, self.port, self.running = servers, folder, 0, None
        given = [word for name, value in flags.items() for word in (f"--{name}", value)]
        self.argv = [write_rows(folder / "rows.jsonl", rows), "--output_dir", folder / "labels", *given]

    def start(self) -> "PageServer":
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
