"""Locates reward models, and checks that they are valid."""

import os

from peft import TaskType
from transformers import AutoModelForSequenceClassification

from hfkit.core.errors import HfkitError
from hfkit.models.adapter_support import require_supported
from hfkit.models.adapters import require_reward_adapter
from hfkit.models.fitting import require_fitting
from hfkit.models.model_config import read_config
from hfkit.models.stored_weights import require_stored
from hfkit.records.source import Source


def reward_source(path: str, revision: str = "main", base: str | None = None) -> Source:
    """Return the source of a reward model after checking that it has a trained head.

    Raises:
        HfkitError: the path has no reward model, or a reward model without its head or with several labels.
    """
    source = Source.of(path, revision, base)
    if source.adapter is not None:
        require_supported(source)
        require_reward_adapter(source)
        require_fitting(source, TaskType.SEQ_CLS)
        return source
    config = read_config(source.path, source.revision)
    if config.num_labels != 1 or "ForSequenceClassification" not in str(config.architectures):
        raise HfkitError(
            f"{path} is a {config.architectures} with num_labels={config.num_labels}, not a sequence classifier with "
            "one label: train a reward model with `hfkit reward`"
        )
    return source


def reward_fault(path: str, revision: str = "main") -> HfkitError | None:
    """Return why a path has no reward model with a trained head, or None; on the Hub, only configs are checked."""
    try:
        source = reward_source(path, revision)
        if os.path.isdir(source.base):
            head, has_head = AutoModelForSequenceClassification, source.adapter is None
            require_stored(source.base, source.base_revision, head, has_head=has_head)
    except HfkitError as error:
        return error
    return None
