"""python docs/hooks/write_reference.py [--check]

Writes docs/reference/keys.md and commands.md, which code generates. `make docs` runs it; run it after a change of a
config key or a command. With --check it writes nothing and exits with 1 if a page is stale.
"""

import sys
from pathlib import Path

from command_help import commands_page
from config_keys import keys_page

REFERENCE = Path(__file__).parents[1] / "reference"
PAGES = {"keys.md": keys_page, "commands.md": commands_page}
COMMAND = "python docs/hooks/write_reference.py"
WRITTEN_WITH = (3, 11)
"""The Python whose argparse formats commands.md; with another one an existing file is not compared."""


def stale_pages(folder: Path = REFERENCE) -> dict[str, str]:
    """Return the pages whose files are missing or have another text, as {name: the text of the code}."""
    stale = {}
    for name, page in PAGES.items():
        file = folder / name
        if file.is_file() and name == "commands.md" and sys.version_info[:2] != WRITTEN_WITH:
            continue
        text = page()
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale[name] = text
    return stale


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
