"""hfkit report runs/quickstart

Writes a page on the runs of a pipeline, `RUN_DIR/report.html`, with its plots in `RUN_DIR/report/`: whether each
model is better than the one before, responses side by side, curves of every stage, score against KL, lineage, data,
cost, warnings, and the results of `hfkit evaluate` and `hfkit arena`. The page is one file that needs no network.
RUN_DIR is the folder of a pipeline or of a run; the report of a run includes the runs that it was made from.
"""

from argparse import Namespace
from pathlib import Path

from hfkit.commands.report.figure_writer import FigureWriter
from hfkit.commands.report.gather import gather
from hfkit.commands.report.page import render
from hfkit.core.console import say
from hfkit.core.errors import HfkitError, reason
from hfkit.core.explain_errors import explain_file_error
from hfkit.core.files import write_text
from hfkit.core.temporary import remove_leftovers


def write_report(folder: str | Path) -> Path:
    """Write the report of a folder of runs and return its path.

    Raises:
        HfkitError: there is no such folder, it has no run or nothing to show, or a record is invalid.
    """
    folder = Path(folder)
    try:
        gathered = gather(folder)
        (folder / "report").mkdir(exist_ok=True)
        remove_leftovers(folder)
        write_text(folder / "report.html", render(gathered, FigureWriter(folder / "report")))
    except OSError as error:
        explained = explain_file_error(error, folder)
        raise explained or HfkitError(f"the report cannot be written into {folder}: {reason(error)}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise HfkitError(f"a record in {folder} is not as hfkit writes it: {reason(error)}") from error
    return folder / "report.html"


def main(given: Namespace) -> int:
    """Run `hfkit report`."""
    say(f"report: {write_report(given.run_dir)}")
    return 0
