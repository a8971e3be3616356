"""python docs/hooks/write_reference.py [--check]

Writes docs/reference/keys.md and commands.md, which code generates. `make docs` runs it, and so does everyone who changes
a config key or a command. With --check it writes nothing and exits with 1 if a page is stale.
"""

import sys
from pathlib import Path

from command_help import commands_page
from config_keys import keys_page

REFERENCE = Path(__file__).parents[1] / "reference"
PAGES = {"keys.md": keys_page, "commands.md": commands_page}
COMMAND = "python docs/hooks/write_reference.py"


def stale_pages(folder: Path = REFERENCE) -> dict[str, str]:
    """Return the pages whose files are missing or have another text, as {name: the text of the code}."""
    texts = {name: page() for name, page in PAGES.items()}
    files = {name: folder / name for name in PAGES}
    return {
        name: text
        for name, text in texts.items()
        if not files[name].is_file() or files[name].read_text(encoding="utf-8") != text
    }


def main(arguments: list[str]) -> int:
    """Write the pages that are stale, or with --check only name them; return the exit status."""
    stale = stale_pages()
    for name, text in stale.items():
        if "--check" not in arguments:
            REFERENCE.mkdir(exist_ok=True)
            (REFERENCE / name).write_text(text, encoding="utf-8")
        print(f"{REFERENCE / name}: " + (f"stale, run {COMMAND}" if "--check" in arguments else "written"))
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
