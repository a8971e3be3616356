"""The rounds of a pipeline as text: a column for each policy, in the report and on the terminal."""

from pathlib import Path

from hfkit.commands.report.tables import ReportTable
from hfkit.core.files import read_json_mapping
from hfkit.core.tables import interval_text

ROUNDS = "rounds.json"


def rounds_table(folder: Path) -> ReportTable | None:
    """Return the table of the rounds in a folder, None if it has none."""
    result = read_json_mapping(folder / ROUNDS)
    if not result:
        return None
    judge = (result.get("judge") or {}).get("name")
    caption = f"Rounds, judged by {judge}" if judge else "Rounds"
    names = [one["name"] for one in result["rounds"]]
    rows = [[name, *cells] for name, cells in rows_of(result).items()]
    return ReportTable(caption, ["", *names], rows, range(1, len(names) + 1))


def measure_of(result: dict) -> tuple[str, str, str, str] | None:
    """Return the keys of what the judge measured, its low and its high, and its title; None without an evaluation."""
    if "score" in result["rounds"][0]:
        return "score", "score_low", "score_high", "judge's mean score"
    return ("rating", "low", "high", "rating (Elo)") if "rating" in result["rounds"][0] else None


def rows_of(result: dict) -> dict[str, list[str]]:
    """Return the results as text: for each measure, the cells of the policies."""
    rounds, measure = result["rounds"], measure_of(result)
    rows = {
        "rankings": [f"{one['counts']['rankings']:,}" if "counts" in one else "-" for one in rounds],
        "reward accuracy on held-out labels": [number_text(one, "reward_accuracy") for one in rounds],
    }
    if measure:
        rows[f"{measure[3]} (95% interval)"] = [number_text(one, *measure[:3]) for one in rounds]
        rows["win rate against the last"] = [number_text(one, "win_rate") for one in rounds]
        rows[f"KL to {rounds[0]['name']} (nats/response)"] = [number_text(one, "kl") for one in rounds]
    return rows


def number_text(one: dict, key: str, *ends: str) -> str:
    """Return a number, with its interval, as text; a dash if it was not measured."""
    return "-" if one.get(key) is None else interval_text(one[key], *map(one.get, ends))
