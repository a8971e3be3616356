"""python docs/lint/prose.py [--counts] [PATH ...]

Reports phrases and names of words.yaml, and sentences that are too long, as `file:line: text: what to write`, and exits
with 1 if there are any. It reads Markdown outside code, comments of YAML, and comments, docstrings, strings (not in
tests/) and names of Python. Sentences are measured in README.md and docs/. exceptions.yaml lists what stays.
"""

import bisect
import io
import re
import sys
import tokenize
from collections import Counter
from pathlib import Path

import yaml

HERE, ROOT = Path(__file__).parent, Path(__file__).resolve().parents[2]
WORDS, EXCEPTIONS = (yaml.safe_load((HERE / name).read_text("utf-8")) for name in ("words.yaml", "exceptions.yaml"))
CODE = "¤"  # replaces what is not prose: one word of a sentence, and no part of any phrase
MARKDOWN_CODE = re.compile(
    r"\A---\n.*?^---$|^ *(```+|~~~+).*?^ *\1|<!--.*?-->|(`+)(?!`).+?(?<!`)\2(?!`)|(?<=\])\([^)\n]*\)|https?://[^\s)>]+",
    re.MULTILINE | re.DOTALL,
)
NEW_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+]|\d+\.|#+|>|!!!|\?\?\?|===|\|)(?:\s|$))|(?<=\|)\n|(?<=^)#.*\n")
SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)[.!?][)\"'*_\]]*(?=\s|$)")
GROUPS = "|".join(f"(?P<p{index}>{phrase})" for index, phrase in enumerate(WORDS["phrases"]))
PHRASES = re.compile(re.sub(" ", r"[\\s#]+", rf"\b(?<!-)(?=\w)(?:{GROUPS})(?![\w-])"), re.IGNORECASE)


def hide(text: str, first: str = CODE) -> str:
    """Return text of the same lines and length that starts with `first` and is blank after that."""
    return re.sub(r"\S", first, text[:1]) + re.sub(r"\S", " ", text[1:])


def markdown_prose(text: str) -> str:
    """Return a Markdown text of the same lines and length, without code, front matter, comments and link targets."""
    return MARKDOWN_CODE.sub(lambda found: hide(found[0], " " if found[0][0] == "(" else CODE), text)


def python_prose(text: str, starts: list[int], is_test: bool) -> tuple[str, list[tuple[int, str]]]:
    """Return the prose of a Python text, of the same length, and its names with their offsets."""
    prose, names, previous, begins_line = list(re.sub(r"\S", CODE, text)), [], "", True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        begin, end = (starts[line - 1] + column for line, column in (token.start, token.end))
        kind, text, shown = tokenize.tok_name[token.type], token.string, None
        if kind == "COMMENT":
            shown = re.sub(r"#|\bnoqa\b.*", lambda found: hide(found[0], " "), text)
        elif kind == "STRING" and (begins_line or not is_test):
            shown = re.sub(r"^\w*[\"']+|[\"']+$", lambda found: hide(found[0], " "), text)
            shown = re.sub(r"\{[^{}]*\}|\\n|`[^`\n]*`", lambda found: hide(found[0]), shown)
        elif kind.startswith("FSTRING") and not is_test:
            shown = text if kind == "FSTRING_MIDDLE" else hide(text, " ")
        elif kind == "NAME":
            names += [] if is_test and previous == "def" else [(begin, text)]
            shown = text.replace("_", " ") if previous in ("def", "class") else None
        if shown is not None and len(shown) == end - begin:
            prose[begin:end] = shown
        begins_line = kind in ("NEWLINE", "INDENT", "DEDENT") or (begins_line and kind in ("NL", "COMMENT"))
        previous = text
    return "".join(prose), names


def long_sentences(text: str) -> list[tuple[int, str]]:
    """Return the offset and length of each sentence of a Markdown text that is too long, outside tables and titles."""
    found, begin = [], 0
    for block_end, next_block in [
        *((block.start(), block.end()) for block in NEW_BLOCK.finditer(text)),
        (len(text), 0),
    ]:
        block = text[begin:block_end]
        ends = [match.end() for match in SENTENCE_END.finditer(block)]
        for start, end in zip([0, *ends], [*ends, len(block)], strict=True):
            words = sum(bool(re.search(rf"[\w{CODE}]", word)) for word in block[start:end].split())
            if words > WORDS["longest_sentence"] and not block.lstrip().startswith(("|", "#")):
                found.append((begin + end - len(block[start:end].lstrip()), f"{words} words: split the sentence"))
        begin = next_block
    return found


def findings(path: Path) -> list[tuple[int, str, str]]:
    """Return line, text and remedy of each finding in a file."""
    text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    prose, found, names = text, [], []
    if path.suffix == ".md":
        prose = markdown_prose(text)
        if name.startswith(("docs/", "README")):
            found = [(at, " ".join(text[at : at + 70].split()) + " ...", rest) for at, rest in long_sentences(prose)]
    elif path.suffix == ".py":
        prose, names = python_prose(text, starts, name.startswith("tests/"))
    elif not name.startswith("hfkit/"):  # there YAML has messages and help too
        prose = re.sub(r"^[^#\n]*(?=#)|^[^#\n]*$", lambda match: hide(match[0]), text, flags=re.MULTILINE)
    remedies = list(WORDS["phrases"].values())
    for hit in PHRASES.finditer(prose):
        found.append((hit.start(), " ".join(hit[0].split()), f"write {remedies[int(hit.lastgroup[1:])]}"))
    for pattern, remedy in WORDS["identifiers"].items():
        found += [(at, known, f"write {remedy}") for at, known in names if re.fullmatch(pattern, known)]
    skipped = tuple(EXCEPTIONS.get(name, ()))
    return sorted({(bisect.bisect(starts, at), *rest) for at, *rest in found if not rest[0].startswith(skipped)})


def main(arguments: list[str]) -> int:
    """Print the findings in files and folders, or with --counts their number by folder; return the exit status."""
    counts, paths = Counter(), [Path(path).resolve() for path in arguments if path != "--counts"]
    for path in paths or [ROOT / path for path in WORDS["paths"]]:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.suffix not in (".md", ".py", ".yaml", ".yml") or file.parent == HERE:
                continue
            name = file.relative_to(ROOT).as_posix()
            for line, shown, remedy in findings(file):
                counts["/".join(name.split("/")[: 2 if name.startswith(("hfkit/", "docs/")) else 1])] += 1
                if "--counts" not in arguments:
                    print(f"{name}:{line}: {shown}: {remedy}")
    print(*(f"{count:5} {folder}" for folder, count in sorted(counts.items())), sep="\n", file=sys.stderr)
    return bool(counts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
