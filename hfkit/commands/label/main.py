"""hfkit label runs/samples/samples.jsonl --output_dir runs/labels

People rank responses on a page in the browser: at http://127.0.0.1:7860, until Ctrl-C. Rows are rankings without ranks
(what `hfkit sample` writes), pairs, rows with one response or feedback, or prompts alone, to which people write
answers. Or a judge ranks them without a page: --judge reward, function, or a language model.

Each judgement is on the disk before the page shows the next row: nothing is lost if the server or the browser is
killed, and the same command resumes. Several people can judge at once; --overlap 2 gives each row to two of them.

Writes judgements.jsonl (every event), rankings.jsonl (for `hfkit reward` and DPO), instructions.jsonl (for `hfkit
sft`: written or corrected answers) and labels.json (counts, seconds per row, agreement).
"""

from importlib import import_module
from pathlib import Path

from hfkit.commands.label.checks import HUMAN, password_of
from hfkit.commands.label.labels_file import LabelsFile
from hfkit.commands.label.report import LABEL_RESULTS, print_results, write_results
from hfkit.commands.label.rows import load_label_rows
from hfkit.config.labeling import LabelConfig
from hfkit.core.console import say, warn
from hfkit.core.errors import HfkitError, reason
from hfkit.core.explain_errors import explain_errors
from hfkit.core.interrupts import Interrupted
from hfkit.core.locks import lock_folder

JUDGEMENTS = "judgements.jsonl"
WRITTEN_EVERY = 20
"""Judgements after which the other files are written, while the page runs."""


def judge_rows(config: LabelConfig) -> dict:
    """Have people or a judge rank the rows of a config, write the files, and return what `labels.json` holds.

    With people, it returns when every row has its judgements (`until_complete`), or ends with Ctrl-C.

    Raises:
        HfkitError: the rows cannot be read, the port is in use, or another process labels into the folder.
    """
    folder = Path(config.output_dir)
    with lock_folder(folder, "labeling"), explain_errors(folder, config):
        rows, stats = load_label_rows(config)
        saved = LabelsFile(folder / JUDGEMENTS)
        try:
            if not config.export and config.judge == HUMAN:
                show_page(config, rows, stats, saved)
            elif not config.export:
                write_results(config, rows, stats, saved.counting())  # its settings are known, even after a kill
                import_module("hfkit.commands.label.judge").judge_all(config, rows, saved)
        except (KeyboardInterrupt, Interrupted):
            print_results(write_results(config, rows, stats, saved.counting()))
            raise
        result = write_results(config, rows, stats, saved.counting())
    known = {labeler["name"] for labeler in result["labelers"]}
    if unknown := [name for name in config.labelers if name not in known]:
        warn(
            f"labelers: {', '.join(unknown)} judged nothing here; those who did: {', '.join(sorted(known)) or 'nobody'}"
        )
    return result


def show_page(config: LabelConfig, rows: list, stats, saved: LabelsFile) -> None:
    """Serve the page until a signal, or until every row has its judgements."""
    server, app = map(import_module, ("hfkit.commands.web.server", "hfkit.commands.label.app"))
    shown = app.LabelPage(config, rows, saved, password_of(config))
    bound = server.open_socket(config.host, config.port)
    written = len(saved.events) - WRITTEN_EVERY  # the first results are written at once
    with server.ServerThread(shown.application(), bound) as page:
        say(f"label: {len(rows):,} rows at {server.address_of(bound)} (Ctrl-C ends it; judgements are saved at once)")
        while page.wait(0.2) and not (config.until_complete and shown.assignment.is_complete()):
            if len(saved.events) >= written + WRITTEN_EVERY:
                written = len(saved.events)
                try:
                    write_results(config, rows, stats, saved.counting())
                except OSError as error:  # the page goes on: the disk may be full, yet take the next judgement
                    warn(f"the results are not written ({reason(error)}); each judgement that the page takes is saved")
        if not page.wait(0):
            raise HfkitError("the page's server has ended; the judgements are saved, and the same command resumes")


def main(config: LabelConfig) -> int:
    """Run `hfkit label`."""
    print_results(judge_rows(config))
    say(f"label: results in {config.output_dir} ({LABEL_RESULTS})")
    return 0
