"""A folder of torch.distributed.checkpoint is read only if it is whole and holds nothing that runs code."""

import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from hfkit.core.compat_sharding import CHECKPOINT_CLASSES
from hfkit.training.sharded_checkpoint import METADATA, MetadataReader, sharded_fault


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def save(folder: Path, **more) -> Path:
    """Save a state as FSDP2 saves that of an optimizer."""
    state = {"step": torch.ones(3), "moments": torch.ones(2, 2, dtype=torch.bfloat16), "lr": 1e-3, "betas": (0.9, 0.95)}
    dcp.save({"optimizer": state | more}, storage_writer=dcp.FileSystemWriter(folder), no_dist=True)
    return folder


def change_metadata(folder: Path, change) -> None:
    """Change the metadata of a checkpoint."""
    metadata = pickle.loads((folder / METADATA).read_bytes())
    change(metadata)
    (folder / METADATA).write_bytes(pickle.dumps(metadata))


def test_what_pytorch_saves_can_be_read(tmp_path):
    folder = save(tmp_path / "optimizer_0")
    assert sharded_fault(folder) is None
    with (folder / METADATA).open("rb") as file:
        read = MetadataReader(file).load()
    assert read == pickle.loads((folder / METADATA).read_bytes())


def test_the_names_are_those_of_pytorch():
    for module, names in CHECKPOINT_CLASSES.items():
        for name in names.split():
            assert module == "pathlib._local" or hasattr(__import__(module, fromlist=[name]), name)


@pytest.mark.parametrize("name", [METADATA, "__0_0.distcp"])
def test_a_missing_file(tmp_path, name):
    folder = save(tmp_path / "optimizer_0")
    (folder / name).unlink()
    assert sharded_fault(folder) == f"optimizer_0/{name} is missing"


@pytest.mark.parametrize("name", [METADATA, "__0_0.distcp"])
def test_a_truncated_file(tmp_path, name):
    folder = save(tmp_path / "optimizer_0")
    file = folder / name
    file.write_bytes(file.read_bytes()[:-9])
    assert "damaged" in sharded_fault(folder) or "truncated" in sharded_fault(folder)


def test_metadata_run_no_code(tmp_path):
    folder, made = save(tmp_path / "optimizer_0"), tmp_path / "made"
    change_metadata(folder, lambda metadata: setattr(metadata, "planner_data", Touch(made)))
    assert "holds more than tensors and numbers" in sharded_fault(folder)
    assert not made.exists()


def test_values_run_no_code(tmp_path):
    made = tmp_path / "made"
    assert "holds more than tensors and numbers" in sharded_fault(save(tmp_path / "optimizer_0", lr=Touch(made)))
    assert not made.exists()


@pytest.mark.parametrize("way", ["path", "link"])
def test_files_of_other_folders_are_not_read(tmp_path, way):
    folder = save(tmp_path / "optimizer_0")
    other = (folder / "__0_0.distcp").rename(tmp_path / "other.distcp")
    if way == "link":
        (folder / "__0_0.distcp").symlink_to(other)
    else:

        def redirect(metadata):
            for stored in metadata.storage_data.values():
                stored.relative_path = "../other.distcp"

        change_metadata(folder, redirect)
    assert "hfkit did not write" in sharded_fault(folder)
