"""License names that the Hub knows (huggingface.co/docs/hub/repositories-licenses)."""

from pathlib import Path

from hfkit.core.errors import MISSING, Problem, nearest

LICENSES = tuple(Path(__file__).with_name("licenses.txt").read_text(encoding="utf-8").split())
NO_LICENSE = "No license is stated. Add `license:` to the metadata of this card; later updates keep it."


def license_problems(name: str | None) -> list[Problem]:
    """Return the problem of a config's `license`. `other` needs a name and a link, which a config has no keys for."""
    if name is None or name in LICENSES:
        return []
    guess = nearest(name.lower().replace(" ", "-"), LICENSES) if name else None
    hint = f"did you mean {guess}? " if guess else ""
    remedy = f"{hint}Unknown to the Hub: write license: other, license_name and license_link into README.md instead"
    return [Problem("license", name or MISSING, remedy)]
