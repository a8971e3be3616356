"""The files of an upload, with the model card, and the checks of a model folder before a push."""

from dataclasses import dataclass
from pathlib import Path

from hfkit.core.errors import HfkitError, Problem, reason
from hfkit.core.files import RECORD, read_json_mapping
from hfkit.hub.cards.hand_edits import latest_card, read_card
from hfkit.hub.cards.model_card import updated_card
from hfkit.hub.locations import HubLocation, locate_base
from hfkit.hub.model_files import RepoFile
from hfkit.records.base import base_fault
from hfkit.records.record import weight_files
from hfkit.records.source import ADAPTER_CONFIG, Source, read_json

MODEL_JSON = ("config.json", ADAPTER_CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json")
"""The files of a model that Transformers and PEFT read as JSON mappings."""


@dataclass(frozen=True)
class UploadPlan:
    """A folder as it will be in a repository.

    Attributes:
        files: to upload, by their names in the repository.
        left_out: files and folders that are not uploaded.
        record: as it is uploaded; None if the folder has none.
        base: where the base of an adapter is on the Hub; None for a full model.
    """

    files: dict[str, RepoFile]
    left_out: list[str]
    record: dict | None = None
    base: HubLocation | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def make_card(folder: Path, record: dict, repo_id: str, on_hub: str | None) -> str:
    """Return the model card: generated from the record, with the edits of the local card or of the one on the Hub.

    Raises:
        HfkitError: both cards were edited, in different ways, or the metadata of one or the record cannot be read.
    """
    existing = latest_card(read_card(folder), on_hub)
    try:
        return updated_card(existing, folder, record, repo_id)
    except (LookupError, TypeError, AttributeError) as error:
        raise HfkitError(f"{folder / RECORD} is not a record as hfkit writes it: {reason(error)}") from error


def record_problems(folder: Path, record: dict | None) -> list[Problem]:
    """Return the problem of a record that cannot be read, or of a run that is not done."""
    if record is None:
        file = folder / RECORD
        return [Problem(str(file), "not readable", "repair it or move it away")] if file.exists() else []
    status = record.get("status")
    return [] if status == "done" else [Problem(str(folder), f"status {status}", "finish the run first")]


def missing_weights(folder: Path, files: dict[str, RepoFile]) -> list[Problem]:
    """Return the problem of a folder without a model, adapter or tokenizer, or without all weights of its model."""
    if ADAPTER_CONFIG not in files and "config.json" not in files:
        if "tokenizer_config.json" in files and not weight_files(folder):
            return []
        remedy = "name a folder that a stage, a trainer or save_pretrained wrote"
        return [Problem(str(folder), "no model, adapter or tokenizer", remedy)]
    missing = [file.name for file in weight_files(folder) if file.name not in files]
    if weight_files(folder) and not missing:
        return []
    found = f"without {', '.join(missing) or 'weights'}"
    return [Problem(str(folder), found, "a push needs all weights of a model, as safetensors")]


def unreadable_configs(folder: Path, files: dict[str, RepoFile]) -> list[Problem]:
    """Return the problem of each file to upload among `MODEL_JSON` that holds no JSON mapping."""
    faulty = [name for name in MODEL_JSON if name in files and read_json_mapping(folder / name) is None]
    return [Problem(str(folder / name), "not a JSON mapping", "repair it, or save the model again") for name in faulty]


def base_to_name(
    folder: Path, record: dict | None, base: HubLocation | None
) -> tuple[HubLocation | None, list[Problem]]:
    """Return where the base of an adapter is on the Hub; the problem if it is unknown, or not the base trained on."""
    location = base or locate_base(folder, record, read_json(str(folder), ADAPTER_CONFIG))
    if isinstance(location, Problem):
        return None, [location]
    source = Source.of(str(folder))
    fault = base_fault(source) if Path(source.base).is_dir() else None
    key = f"{folder / ADAPTER_CONFIG}: base_model_name_or_path"
    return location, [Problem(key, source.base, fault)] if fault else []
