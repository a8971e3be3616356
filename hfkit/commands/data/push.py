"""hfkit data push CARD_OR_DIR USER/NAME --private

Pushes preferences, instructions, prompts or texts to the Hub, in one commit: a folder with data files (.jsonl, .json,
.parquet, .csv, ...), compressed or not, and its README.md; or the local files of a data card. A file with `train`,
`validation` or `test` in its name is that split, any other file the training split; other differences between names
make subsets. The card declares them for the Hub's viewer and `load_dataset`, and keeps text that you add. As with
`hfkit push`, every problem is reported before any file is uploaded, and nothing is deleted.
"""

from argparse import Namespace

from hfkit.commands.push import dry_run, report_push
from hfkit.hub.dataset_upload import DatasetUpload, push_data


def main(given: Namespace) -> int:
    """Run `hfkit data push`."""
    options = vars(given)
    if options.pop("dry_run"):
        options["branch"] = options.pop("revision")
        return dry_run([DatasetUpload.of(**options)], [], f"the push of {given.source} to {options['repo_id']}")
    report_push(given.source, push_data(**options))
    return 0
