"""hfkit report runs/quickstart

One page on what a pipeline made, `RUN_DIR/report.html`, with its plots in `RUN_DIR/report/`: whether each model is
better than the one before, replies side by side, the curves of every stage, score against KL, lineage, data, cost,
warnings. It is one file, for any browser, with or without a network. RUN_DIR is a pipeline's folder, or one stage's:
then the stages that it was made from are told of as well. What `hfkit evaluate` and `hfkit arena` left there is shown.
"""

from argparse import Namespace
from pathlib import Path

from hfkit.commands.report.figure_writer import FigureWriter
from hfkit.commands.report.gather import gather
from hfkit.commands.report.page import render
from hfkit.core.console import say
from hfkit.core.errors import HfkitError, reason
from hfkit.core.files import write_text


def write_report(folder: str | Path) -> Path:
    """Writes the report of a folder of runs and returns its path.

    Raises:
        HfkitError: no folder, no run in it, runs without anything to show, or records that hfkit did not write.
    """
    folder = Path(folder)
    try:
        gathered = gather(folder)
        plots = folder / "report"
        plots.mkdir(exist_ok=True)
        page = render(gathered, FigureWriter(plots))
        write_text(folder / "report.html", page)
    except OSError as error:
        raise HfkitError(f"the report cannot be written into {folder}: {reason(error)}") from error
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise HfkitError(f"a record in {folder} is not as hfkit writes it: {reason(error)}") from error
    return folder / "report.html"


def main(given: Namespace) -> int:
    """Run `hfkit report`."""
    say(f"report: {write_report(given.run_dir)}")
    return 0
