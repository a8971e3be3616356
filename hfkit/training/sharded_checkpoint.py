"""Checks a folder of torch.distributed.checkpoint, in which FSDP2 saves weights or optimizer states, before it is read.

PyTorch unpickles `.metadata` and values other than tensors without restriction, and reads tensors with `weights_only`.
Here the metadata are unpickled with a list of allowed classes, and each other value is tried with `weights_only`.
"""

import io
import pickle
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata
from transformers.trainer_pt_utils import safe_globals

from hfkit.core.compat_sharding import CHECKPOINT_CLASSES
from hfkit.core.links import leads_out

METADATA = ".metadata"


class MetadataReader(pickle.Unpickler):
    """Unpickles the metadata of a checkpoint, with the classes that PyTorch writes and no others."""

    def find_class(self, module: str, name: str):
        """Return a class or dtype by its name; raise UnpicklingError for any other."""
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in CHECKPOINT_CLASSES.get(module, "").split():
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def sharded_fault(folder: Path) -> str | None:
    """Return why a folder is incomplete, or could run code when it is read; None if it can be read."""
    try:
        with (folder / METADATA).open("rb") as file:  # written last
            metadata = MetadataReader(file).load()
        if not isinstance(metadata, Metadata):
            return f"{folder.name}/{METADATA} is not the metadata of a checkpoint"
        for index, stored in metadata.storage_data.items():
            file = folder / stored.relative_path
            is_own = file.parent == folder and not leads_out(file, folder)
            if not is_own or getattr(stored, "transform_descriptors", None):
                return f"{folder.name} holds {stored.relative_path}, which hfkit did not write"
            if file.stat().st_size < stored.offset + stored.length:
                return f"{folder.name}/{file.name} is truncated"
            if isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata):
                with file.open("rb") as stream, safe_globals():
                    stream.seek(stored.offset)
                    torch.load(io.BytesIO(stream.read(stored.length)), weights_only=True)
    except FileNotFoundError as error:
        return f"{folder.name}/{Path(error.filename).name} is missing"
    except Exception as error:  # damaged files raise errors of any kind
        return f"{folder.name} holds more than tensors and numbers, or is damaged ({type(error).__name__})"
    return None
