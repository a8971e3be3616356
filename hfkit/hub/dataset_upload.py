"""Push a dataset to its repository: a folder with data files, or the files that a data card names."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from huggingface_hub import DatasetCard

from hfkit.core.errors import HfkitError, Problem
from hfkit.core.files import write_text
from hfkit.data.cards import Card, Recipe, load_card
from hfkit.hub.cards.dataset_card import DatasetContent, dataset_card
from hfkit.hub.cards.hand_edits import README, ParsedCard, latest_card, read_card, with_edit_hash
from hfkit.hub.dataset_files import DataFile, Selection, load_data_files, select_dataset_files
from hfkit.hub.model_files import RepoFile
from hfkit.hub.push import run_uploads
from hfkit.hub.repo import Repo
from hfkit.hub.repo_checks import visibility_problems
from hfkit.hub.secret_scan import secrets_in_files, secrets_in_rows
from hfkit.hub.upload import Pushed, Upload
from hfkit.hub.upload_plan import UploadPlan


@dataclass
class DatasetUpload(Upload):
    """An `Upload` of a dataset; `card` is the data card that names the files, or None for a folder."""

    card: Card | None = None

    type = "dataset"
    card_class = DatasetCard

    @classmethod
    def of(cls, source: str, *args, **kwargs) -> "DatasetUpload":
        """Return the upload of a folder or of a data card, by name or file.

        Raises:
            HfkitError: there is no such folder or card, the card cannot be read, or its rows are on the Hub.
        """
        if Path(source).is_dir():
            return cls(Path(source), *args, **kwargs)
        card = load_card(source)
        if not card.recipe.files:
            raise HfkitError(f"the rows of {card.name} are on the Hub, at {card.recipe.path}: there is nothing to push")
        return cls(Path(card.recipe.path), *args, card=card, **kwargs)

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the data card, if there is one."""
        return self.card and self.card.recipe

    @cached_property
    def selection(self) -> Selection:
        """The names of the files to upload."""
        return select_dataset_files(self.folder, self.card)

    @cached_property
    def loaded(self) -> tuple[list[DataFile], list[Problem]]:
        """The data files with their rows, and the problems of those that cannot be loaded."""
        return load_data_files(self.folder, self.selection.data, self.card)

    def make_plan(self, card: str | None = None, token: str | None = None) -> tuple[UploadPlan, list[Problem]]:
        """Return the plan of the dataset as it is now, and the problems with it; arguments as in `Upload`."""
        selection = self.selection
        files = {name: RepoFile(name, self.folder / name) for name in selection.documents if name != README}
        problems = [*selection.problems]
        if not problems:
            data_files, found = self.loaded
            problems += found
            if self.plan is None:  # rows are scanned once
                problems += [one for file in data_files for one in secrets_in_rows(file.path, file.rows, token)]
        if not problems:
            try:
                existing = latest_card(self.read_local_card(), card)
                text = dataset_card(existing, DatasetContent(self.repo_id, data_files, self.recipe))
                files[README] = RepoFile(README, text.encode())
                problems += config_problems(text, selection.data)
            except HfkitError as error:
                problems.append(Problem(README, "cannot be updated", str(error)))
        problems += secrets_in_files(files.values(), token)
        files |= {name: RepoFile(name, self.folder / name) for name in selection.data}
        return UploadPlan(files, selection.left_out), problems

    def read_local_card(self) -> str | None:
        """Return the folder's README.md, or the data card without its recipe, which names other paths on the Hub."""
        if self.card is None:
            return read_card(self.folder)
        card = DatasetCard(self.card.file.read_text(encoding="utf-8"))
        card.data.pop("hfkit")
        return str(card)

    def problems_with(self, repo: Repo) -> list[Problem]:
        """Return the problem with the visibility of the repository."""
        return visibility_problems(repo, self.private)

    def update_folder(self, commit: str) -> None:
        """Write the pushed card into the folder, with the hash that reveals later edits; a data card is unchanged."""
        if self.card is None:
            write_text(self.folder / README, with_edit_hash(self.plan.files[README].data.decode()))


def push_data(
    source: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str = "main",
    tag: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Push a dataset to a dataset repository, in one commit; the repository is created if it does not exist.

    Args:
        source: a folder with data files, or a data card, by name or as a .md file.
        repo_id, private, revision, tag, message: as in `hfkit.hub.push.push`.

    Raises:
        ConfigError, HfkitError: as `hfkit.hub.push.push`.
    """
    upload = DatasetUpload.of(str(source), repo_id, private, revision, tag, message)
    return run_uploads([upload], [], f"the push of {source} to {repo_id}")


def config_problems(card: str, names: list[str]) -> list[Problem]:
    """Return the patterns in `configs` of the card's metadata that match none of the data files."""
    problems = []
    for config in ParsedCard.of(card).metadata.get("configs", []):
        for pattern in data_file_patterns(config.get("data_files")):
            if not any(fnmatchcase(name, pattern) for name in names):
                problems.append(Problem(f"{README}: configs", pattern, "matches no data file: correct or remove it"))
    return problems


def data_file_patterns(data_files: object) -> list[str]:
    """Return the patterns in `data_files`: a text, a list of texts, or a list of splits with their paths."""
    if isinstance(data_files, str):
        return [data_files]
    if isinstance(data_files, dict):
        return data_file_patterns(data_files.get("path"))
    nested = data_files if isinstance(data_files, list) else []
    return [pattern for item in nested for pattern in data_file_patterns(item)]
