"""Private parts of the libraries that shard models among processes; see `compat`."""

from contextlib import contextmanager
from importlib import import_module
from typing import Any

CHECKPOINT_CLASSES = {
    "torch.distributed.checkpoint.metadata": "Metadata MetadataIndex StorageMeta BytesStorageMetadata "
    "TensorStorageMetadata TensorProperties ChunkStorageMetadata _MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.filesystem": "_StorageInfo",
    "torch.serialization": "_get_layout",
    "torch": "Size",
    "pathlib": "PosixPath",
    "pathlib._local": "PosixPath",  # Python 3.13
}
"""What torch 2.13.0 pickles into the metadata of a distributed checkpoint besides dtypes: names by module."""


@contextmanager
def whole_models():
    """Create and load whole models in the block, even if DeepSpeed ZeRO-3 would partition them among processes.

    transformers 5.23.0: a weak reference in this module decides; a function sets it, but none returns it.
    """
    module: Any = import_module("transformers.integrations.deepspeed")
    kept = module._hf_deepspeed_config_weak_ref
    module.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        module._hf_deepspeed_config_weak_ref = kept
