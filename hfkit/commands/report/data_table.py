"""The table of a report with the data of all stages: a row for each file, with the stages that read it."""

from pathlib import Path

from hfkit.commands.report.formatting import format_count
from hfkit.commands.report.gather import Gathered, equal_parts_at_end
from hfkit.commands.report.tables import ReportTable
from hfkit.records.given_rows import GIVEN, is_given

DATA_COLUMNS = ["Stage", "Split", "Source", "Rows", "In an epoch", "Share", "Tokens", "Dropped, truncated, faulty"]


def data_table(gathered: Gathered) -> ReportTable:
    """Return a table of every source: the stages that read it, its rows, and the number of them in an epoch.

    Where stages read a source differently, a cell has a value for each, in the order of the stages.
    """
    titles, found = source_titles(gathered), {}
    for run in gathered.runs:
        for split in run.record.get("data", {}).values():
            name, sources = split.get("name", ""), split["sources"]
            whole_split = {"rows": split.get("mixed") or split["kept"], "tokens": split["tokens"], "share": 1.0}
            is_one = len(sources) == 1
            for source in sources:
                taken = whole_split if is_one else source.get("taken", {})
                amounts = amount_cells(source.get("rows", split["rows"]), taken)
                cells = [name, dataset_title(source, titles), *amounts, dropped_cell(split) if is_one else ""]
                key = (name, identity_of(source), source.get("split")) if "path" in source else tuple(cells)
                found.setdefault(key, []).append((run.name, cells))
            if len(sources) > 1:
                cells = [name, "all sources", *amount_cells(split["rows"], whole_split), dropped_cell(split)]
                found.setdefault((run.name, *cells), []).append((run.name, cells))
    rows = []
    for same in found.values():
        stages, cells = zip(*same, strict=True)
        rows.append([", ".join(dict.fromkeys(stages)), *map(joined, zip(*cells, strict=True))])
    return ReportTable("Training and evaluation data of each stage", DATA_COLUMNS, rows, range(3, 7))


def joined(values: tuple[str, ...]) -> str:
    """Return the values of several stages in one cell: a single one if all are equal."""
    known = list(filter(None, values))
    return " / ".join(known) if len({*known}) > 1 else "".join(known[:1])


def amount_cells(given: int, taken: dict) -> list[str]:
    """Return cells for the rows of a source, and for its rows, share and tokens in an epoch."""
    share = f"{taken['share']:.0%}" if "share" in taken else "–"
    return [format_count(given), format_count(taken.get("rows")), share, format_count(taken.get("tokens"))]


def identity_of(source: dict) -> str:
    """Return what sources of the same rows have in common: their hash, else their path."""
    return source.get("sha256") or str(source.get("path", "?"))


def source_titles(gathered: Gathered) -> dict[str, str]:
    """Return the title of each local source by its path: the end of the path in which it differs from all others."""
    sources = [
        source
        for run in gathered.runs
        for split in run.record.get("data", {}).values()
        for source in split["sources"]
        if str(source.get("path", "")).startswith(("/", "."))
    ]
    by_name: dict[str, dict[str, Path]] = {}
    for source in sources:
        path = Path(source["path"])
        by_name.setdefault(path.name, {}).setdefault(identity_of(source), path)
    titles = {}
    for source in sources:
        path = Path(source["path"])
        others = [one for key, one in by_name[path.name].items() if key != identity_of(source)]
        same = max((equal_parts_at_end(path, other) for other in others), default=0)
        titles[source["path"]] = GIVEN if is_given(source["path"]) else "/".join(path.parts[-same - 1 :])
    return titles


def dataset_title(source: dict, titles: dict[str, str]) -> str:
    """Return the name of a dataset: its card, its Hub id or its file.

    Args:
        titles: as `source_titles` returns them.
    """
    if "held_out_of" in source:
        return f"held out from {source['held_out_of']}"
    path = str(source.get("path", "?"))
    return source.get("card") or titles.get(path, path)


def dropped_cell(split: dict) -> str:
    """Return how many rows of a split were dropped, truncated or faulty, and why."""
    cut = {"cut": split["cut"]} if split.get("cut") else {}
    counts = {**split.get("dropped", {}), **cut, **split.get("faults", {})}
    return ", ".join(f"{count:,} {why}" for why, count in counts.items()) or "none"
