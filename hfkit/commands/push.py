"""hfkit push runs/quickstart/sft USER/NAME --private

Pushes what a stage, a merge or `save_pretrained` wrote to the Hub, in one commit: weights or adapter, tokenizer and
template, generation config, model card, record. Everything that speaks against it is told at once, before anything is
sent; nothing in a repository is deleted; what is there already is not sent again, so the same command finishes a push
that was cut off. The token is that of `hf auth login` or of HF_TOKEN.
"""

from argparse import Namespace

from rich.console import Console
from rich.table import Table

from hfkit.core.console import say
from hfkit.core.errors import ConfigError, Problem
from hfkit.hub.push import push, uploads_of


def main(given: Namespace) -> int:
    """Run `hfkit push`."""
    options = vars(given)
    if options.pop("dry_run"):
        options["branch"], options["include"] = options.pop("revision"), tuple(options["include"])
        return dry_run(*uploads_of(**options), f"the push of {given.folder} to {given.repo_id}")
    report_push(given.folder, push(**options))
    return 0


def report_push(folder: str, pushed) -> None:
    """Says where it is now."""
    done = f"commit {pushed.commit}" if pushed.is_new else f"nothing to send: all of it is in commit {pushed.commit}"
    say(f"push: {folder} is at {pushed.url}, {done}")


def dry_run(uploads: list, problems: list[Problem], what: str) -> int:
    """Shows what a push would send.

    Raises:
        ConfigError: what on this machine speaks against it.
    """
    problems = problems + [problem for upload in uploads for problem in upload.problems_here()]
    print_uploads(uploads)
    if problems:
        raise ConfigError(problems, what)
    return 0


def print_uploads(uploads: list) -> None:
    """Prints what would be pushed, with sizes, and what stays here."""
    for upload in uploads:
        if upload.plan is None:
            continue
        table = Table(title=f"{upload.folder} -> {upload.repo_id}", title_justify="left")
        table.add_column("file")
        table.add_column("bytes", justify="right")
        for name, file in sorted(upload.plan.files.items()):
            table.add_row(name, f"{file.size:,}")
        table.add_row("all", f"{upload.plan.size:,}", style="bold")
        console = Console()
        console.print(table)
        if upload.plan.left_out:
            console.print(f"stays here: {', '.join(upload.plan.left_out)}", highlight=False)
