"""Checks that a checkpoint contains the weights of its model, by names and shapes, without reading them."""

import os
from collections.abc import Callable, Hashable, Iterable
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging
from trl.trainer.reward_trainer import suppress_seqcls_warning

from hfkit.core.compat_sharding import whole_models
from hfkit.core.errors import HfkitError, MissingFileError, reason
from hfkit.core.files import folder_state
from hfkit.core.hub_fetch import local_folder
from hfkit.core.hub_files import MODEL_FILES
from hfkit.models.classifiers import provide_classifier
from hfkit.models.model_config import read_config
from hfkit.models.zero import own_part
from hfkit.records.base import stored_quantization
from hfkit.records.shards import require_own_shards

SHOWN = 3  # names in a message


def loader_of(path: str, revision: str, head: type, allow_pickle: bool = False, has_head: bool = False) -> Callable:
    """Return `head.from_pretrained` of a model, which also returns what it did not load; a classifier has one label.

    Args:
        has_head: whether the weights must include a classifier's head; by default Transformers does not report it.

    Raises:
        HfkitError: the model does not exist, or its weights are not files in its folder.
    """
    folder = path if allow_pickle and not os.path.isdir(path) else local_folder(path, revision, MODEL_FILES)
    if os.path.isdir(folder):
        require_own_shards(Path(folder), ("safetensors", "bin") if allow_pickle else ("safetensors",))
    config = read_config(path, revision)
    if head is AutoModelForSequenceClassification:
        provide_classifier(config)
        config.num_labels = 1
    load = partial(
        head.from_pretrained,
        folder,
        config=config,
        revision=revision,
        use_safetensors=None if allow_pickle else True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # `require_whole` names them
        output_loading_info=True,
    )
    return load if has_head else suppress_seqcls_warning()(load)


def require_stored(path: str, revision: str, head: type, allow_pickle: bool = False, has_head: bool = False) -> None:
    """Raise HfkitError unless the files of a checkpoint can be opened and contain each weight in the right shape.

    Raise MissingFileError if the folder has no weights.

    Args:
        head: the auto class of the model.
        has_head: as of `loader_of`.
    """
    _require_stored(path, revision, head, allow_pickle, has_head, folder_state(path))


@lru_cache(maxsize=32)
def _require_stored(path: str, revision: str, head: type, allow_pickle: bool, has_head: bool, _: Hashable) -> None:
    read_config(path, revision)
    if os.path.isdir(path):
        require_own_shards(Path(path))
    if stored_quantization(path, revision) is not None:  # its layers are built from the data; see `load_base`
        return
    kinds = {Path(name).suffix for name in os.listdir(path)} if os.path.isdir(path) else {".safetensors"}
    if not kinds & {".safetensors", ".bin"}:
        raise MissingFileError(f"{path} has no weights")
    if ".safetensors" not in kinds and not allow_pickle:
        raise HfkitError(
            f"cannot load {path}: its weights are pickled; allow_pickle: true loads them, if you trust them"
        )
    try:
        with whole_models(), without_bars():
            model, loaded = loader_of(path, revision, head, allow_pickle, has_head)(device_map="meta", dtype="auto")
    except HfkitError:
        raise
    except Exception as error:  # libraries raise many types for a broken folder
        raise HfkitError(f"cannot load {path}: {reason(error)}") from error
    require_whole(path, model, loaded, has_head)


@contextmanager
def without_bars():
    """Hide Transformers' progress bars: files that are only checked would look as if they were loaded twice."""
    hides = logging.is_progress_bar_enabled()
    if hides:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hides:
            logging.enable_progress_bar()


def require_whole(path: str, model: PreTrainedModel, loaded: dict, has_head: bool = False) -> None:
    """Raise HfkitError if weights of a loaded model are missing from its checkpoint or have another shape in it.

    Args:
        loaded: the report of `from_pretrained`.
        has_head: as of `loader_of`.
    """
    kind = type(model).__name__
    if loaded["mismatched_keys"]:
        shapes = sorted((name, tuple(stored), tuple(own)) for name, stored, own in loaded["mismatched_keys"])
        shown = ", ".join(f"{name} {stored}, not {own}" for name, stored, own in shapes[:SHOWN])
        raise HfkitError(f"{path} has {len(shapes)} weights whose shapes differ from a {kind} of its config: {shown}")
    missing = sorted(loaded["missing_keys"])
    if "ForSequenceClassification" in kind and not has_head:
        missing = [name for name in missing if name.startswith(f"{model.base_model_prefix}.")]
    if missing:
        others = sorted(loaded["unexpected_keys"])
        unknown = f"; a {kind} does not use its {', '.join(others[:SHOWN])}" if others else ""
        shown = ", ".join(missing[:SHOWN])
        raise HfkitError(f"{path} lacks {len(missing)} weights of a {kind}, which would be random: {shown}{unknown}")


def require_finite(path: str, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise HfkitError if some of the named weights of a path are NaN or infinite, as all results would be."""
    for name, parameter in weights:
        weight = own_part(parameter)
        if weight.is_floating_point() and not weight.isfinite().all():
            raise HfkitError(f"{path} has weights that are not finite, such as {name}: use an earlier checkpoint")


def unused_weights(model: PreTrainedModel, loaded: dict) -> list[str]:
    """Return the sorted names of the stored weights that a loaded model does not use.

    For a classifier, return only those of its backbone and its head: it is expected to ignore a language model's head.
    """
    names = sorted(loaded["unexpected_keys"])
    if "ForSequenceClassification" in type(model).__name__:
        names = [name for name in names if name.startswith((f"{model.base_model_prefix}.", "score."))]
    return names
