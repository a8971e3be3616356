"""What a push will upload, and what on this machine speaks against it; nothing is asked of the Hub."""

from dataclasses import dataclass
from pathlib import Path

from hfkit.core.errors import HfkitError, Problem, reason
from hfkit.core.files import RECORD
from hfkit.core.hub_ids import repo_fault
from hfkit.hub.cards.marks import CARD, newer
from hfkit.hub.cards.model_card import updated_card
from hfkit.hub.files import File, files_of, secret_problems
from hfkit.hub.homes import Home, adapter_for_hub, base_home, record_bytes, record_for_hub
from hfkit.records.base import base_fault
from hfkit.records.record import read_record, weight_files
from hfkit.records.source import ADAPTER_CONFIG, Source, read_json


@dataclass(frozen=True)
class Plan:
    """A folder as it will be in a repository.

    Attributes:
        folder: where it lies.
        repo_id: where it goes.
        files: by their names in the repository.
        left_out: what stays here.
        record: as it is uploaded; None where the folder has none.
        base: where the base of an adapter is on the Hub; None for a full model.
    """

    folder: Path
    repo_id: str
    files: dict[str, File]
    left_out: list[str]
    record: dict | None
    base: Home | None

    @classmethod
    def of(
        cls,
        folder: Path,
        repo_id: str,
        *,
        include: tuple[str, ...] = (),
        base: Home | None = None,
        record: dict | None = None,
        card: str | None = None,
        token: str | None = None,
    ) -> tuple["Plan", list[Problem]]:
        """The plan, and every problem with it.

        Args:
            include: patterns of files that are else left out.
            base: where the base of an adapter is, if the folder does not tell.
            record: of a run that goes on; by default the folder's own, which must be done.
            card: the README.md that is in the repository now.
            token: of the user, which must not be in a file.
        """
        files, left_out, problems = files_of(folder, include)
        fault = repo_fault(repo_id)
        if fault:
            problems.append(Problem("repo_id", repo_id, fault))
        if record is None:
            record = read_record(folder)
            problems += record_problems(folder, record)
        problems += missing_weights(folder, files)
        if ADAPTER_CONFIG in files and not problems:
            base, found = find_base(folder, record, base)
            problems += found
            if base:
                files[ADAPTER_CONFIG] = File(
                    ADAPTER_CONFIG, adapter_for_hub(read_json(str(folder), ADAPTER_CONFIG), base)
                )
        if record is not None and not problems:
            record = record_for_hub(record, base)
            files[RECORD] = File(RECORD, record_bytes(record))
            try:
                files[CARD] = File(CARD, card_of(folder, record, repo_id, card).encode())
            except HfkitError as error:
                problems.append(Problem(CARD, "as it is", str(error)))
        problems += secret_problems(files, token)
        return cls(folder, repo_id, files, left_out, record, base), problems

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def card_of(folder: Path, record: dict, repo_id: str, on_hub: str | None) -> str:
    """The model card: generated from the record, with what was written by hand into the one here or that on the Hub.

    Raises:
        HfkitError: both were edited, in different ways; the front matter of one, or the record, cannot be read.
    """
    file = folder / CARD
    existing = newer(file.read_text(encoding="utf-8") if file.is_file() else None, on_hub)
    try:
        return updated_card(existing, folder, record, repo_id)
    except (LookupError, TypeError, AttributeError) as error:
        raise HfkitError(f"the {RECORD} beside it is not as hfkit writes it: {reason(error)}") from error


def record_problems(folder: Path, record: dict | None) -> list[Problem]:
    """A record that cannot be read, or that of a run that has not come to its end."""
    if record is None:
        there = (folder / RECORD).exists()
        return [Problem(str(folder / RECORD), "as it is", "cannot be read: mend it or move it away")] if there else []
    status = record.get("status")
    return [] if status == "done" else [Problem(str(folder), f"a run that is {status}", "finish it first")]


def missing_weights(folder: Path, files: dict[str, File]) -> list[Problem]:
    """No weights at all, or not all of them, where there is a model's config."""
    if ADAPTER_CONFIG not in files and "config.json" not in files:
        if "tokenizer_config.json" in files:
            return []
        return [Problem(str(folder), "no model, adapter or tokenizer", "name a folder that a stage or a trainer wrote")]
    missing = [file.name for file in weight_files(folder) if file.name not in files]
    if weight_files(folder) and not missing:
        return []
    seen = f"without {', '.join(missing) or 'its weights'}"
    return [Problem(str(folder), seen, "weights are pushed whole, in safetensors")]


def find_base(folder: Path, record: dict | None, base: Home | None) -> tuple[Home | None, list[Problem]]:
    """Where the base of an adapter is on the Hub; what to do if that cannot be told, or it is another base."""
    adapter = read_json(str(folder), ADAPTER_CONFIG)
    home = base or base_home(folder, record, adapter)
    if isinstance(home, Problem):
        return None, [home]
    source = Source.of(str(folder))
    fault = base_fault(source) if Path(source.base).is_dir() else None
    return home, [Problem(f"{folder / ADAPTER_CONFIG}: base_model_name_or_path", source.base, fault)] if fault else []
