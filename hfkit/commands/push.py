"""hfkit push runs/quickstart/sft USER/NAME --private

Pushes what a stage, a merge or `save_pretrained` wrote to the Hub, in one commit: weights or adapter, tokenizer and
chat template, generation config, model card, record. A push is validated first; every problem is reported before any
file is uploaded. No file of a repository is deleted. Files that are there already are not uploaded again, so the same
command completes an interrupted push. The token is that of `hf auth login` or of HF_TOKEN.
"""

from argparse import Namespace

from rich.table import Column, Table

from hfkit.core.console import say
from hfkit.core.errors import ConfigError, Problem
from hfkit.core.tables import make_console
from hfkit.hub.push import make_uploads, push
from hfkit.hub.upload import Pushed, Upload


def main(given: Namespace) -> int:
    """Run `hfkit push`."""
    options = vars(given)
    if options.pop("dry_run"):
        options["branch"], options["include"] = options.pop("revision"), tuple(options["include"])
        return dry_run(*make_uploads(**options), f"the push of {given.folder} to {given.repo_id}")
    report_push(given.folder, push(**options))
    return 0


def report_push(folder: str, pushed: Pushed) -> None:
    """Print where a folder is on the Hub."""
    done = f"commit {pushed.commit}" if pushed.is_new else f"nothing to upload: commit {pushed.commit} has all of it"
    say(f"push: {folder} is at {pushed.url}, {done}")


def dry_run(uploads: list[Upload], problems: list[Problem], what: str) -> int:
    """Print what a push would upload: the files with their sizes, and the files left out.

    Raises:
        ConfigError: with every problem that can be found without the Hub.
    """
    problems = problems + [problem for upload in uploads for problem in upload.local_problems()]
    console = make_console()
    for upload in uploads:
        if upload.plan is None:
            continue
        title = f"{upload.folder} -> {upload.repo_id}"
        table = Table("file", Column("bytes", justify="right"), title=title, title_justify="left")
        for name, file in sorted(upload.plan.files.items()):
            table.add_row(name, f"{file.size:,}")
        table.add_row("all", f"{upload.plan.size:,}", style="bold")
        console.print(table)
        if upload.plan.left_out:
            console.print(f"left out: {', '.join(upload.plan.left_out)}", highlight=False)
    if problems:
        raise ConfigError(problems, what)
    return 0
