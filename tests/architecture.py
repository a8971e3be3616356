"""python -m tests.architecture

Measures the structure of `hfkit/`: import cycles, top-level modules, names with two meanings, the longest function.
Imports inside functions count like any other.
"""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1] / "hfkit"
LONGEST_FUNCTION, LONGEST_FILE = 60, 300
SHARED_NAMES = {
    "main": "the entry point of each verb's module",
    "problems_of": "the checks of a config, of stages and of evaluations",
    "__getattr__": "Python's own",
}
"""Names that more than one module may define, and why."""


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module of the package, by its dotted name."""
    trees = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(("hfkit", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


@cache
def nodes(tree: ast.Module) -> list[ast.AST]:
    """Return all nodes of a module; every measurement reads them."""
    return [*ast.walk(tree)]


def import_graph(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Return the modules of the package that each module imports, anywhere in its code."""
    graph: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for node in nodes(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                found = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            elif isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
            else:
                continue
            graph[name] |= found & trees.keys() - {name}
    return graph


def indirect_imports(trees: dict[str, ast.Module]) -> list[str]:
    """Return the names that a module imports from one that imports them itself, each as "module: name"."""
    names = [
        (name, node.module, alias.name)
        for name, tree in trees.items()
        for node in nodes(tree)
        if isinstance(node, ast.ImportFrom) and node.module in trees
        for alias in node.names
    ]
    imported = {(name, alias) for name, _, alias in names}
    return [f"{name}: {alias}" for name, source, alias in names if (source, alias) in imported]


def calls_without_encoding(trees: dict[str, ast.Module]) -> list[str]:
    """Return the calls that open a file as text in the locale's encoding, each as "module:line"."""
    found = []
    for name, tree in trees.items():
        for call in (node for node in nodes(tree) if isinstance(node, ast.Call)):
            method, function = getattr(call.func, "attr", None), getattr(call.func, "id", None)
            owner = getattr(getattr(call.func, "value", None), "id", None)
            index = 1 if function or owner in ("gzip", "bz2", "lzma", "io", "codecs") else 0  # index of `mode`
            given = [word.value for word in call.keywords if word.arg == "mode"] or call.args[index : index + 1]
            mode = given[0].value if given and isinstance(given[0], ast.Constant) else "rb" if owner == "gzip" else "r"
            opens = "open" in (method, function) and owner != "os" and "b" not in str(mode)
            opens |= method == "read_text" and not call.args  # the first argument is the encoding
            opens |= method == "write_text" and len(call.args) < 2
            opens |= "fdopen" in (method, function) or method in ("NamedTemporaryFile", "TextIOWrapper")
            if opens and "encoding" not in {word.arg for word in call.keywords}:
                found.append(f"{name}:{call.lineno}")
    return found


def in_circles(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules that can be reached from themselves."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [*graph[start]]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += graph[name]
        return seen

    return [name for name in graph if name in reachable(name)]


def modules_at_the_top(trees: dict[str, ast.Module]) -> list[str]:
    """Return the files directly in `hfkit/`."""
    return sorted(path.name for path in ROOT.glob("*.py"))


def shared_names(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Return the names that two modules or more define, functions and classes and constants, with these modules."""
    where = defaultdict(set)
    for module, tree in trees.items():
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                where[node.name].add(module)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in (name for target in targets for name in ast.walk(target)):
                    if isinstance(name, ast.Name):
                        where[name.id].add(module)
    return {name: sorted(found) for name, found in sorted(where.items()) if len(found) > 1}


def functions(trees: dict[str, ast.Module]) -> list[tuple[int, str]]:
    """Return (lines, location) of every function, the longest first."""
    found = [
        (node.end_lineno - node.lineno + 1, f"{module}.{node.name}")
        for module, tree in trees.items()
        for node in nodes(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return sorted(found, reverse=True)


def long_files() -> list[tuple[str, int]]:
    """Return the files with more than `LONGEST_FILE` lines."""
    sizes = [(str(path.relative_to(ROOT)), len(path.read_text().splitlines())) for path in ROOT.rglob("*.py")]
    return [(name, size) for name, size in sizes if size > LONGEST_FILE]


def report() -> str:
    """Return all measurements as text."""
    trees = modules()
    names, (longest, where) = shared_names(trees), functions(trees)[0]
    lines = sum(len(path.read_text().splitlines()) for path in ROOT.rglob("*.py"))
    return "\n".join(
        [
            f"files in import circles: {len(in_circles(import_graph(trees)))}",
            f"modules at the top: {len(modules_at_the_top(trees))} ({', '.join(modules_at_the_top(trees))})",
            f"names defined in more than one module: {len(names)}",
            *(f"  {name}: {SHARED_NAMES.get(name, 'not justified')} ({len(found)})" for name, found in names.items()),
            f"longest function: {longest} lines ({where})",
            f"files of more than {LONGEST_FILE} lines: {len(long_files())}",
            f"lines: {lines:,} in {len(trees)} modules",
        ]
    )


if __name__ == "__main__":
    print(report())
