"""Validates that a push to the Hub can succeed, before training starts."""

from dataclasses import fields

from huggingface_hub import get_token
from huggingface_hub.constants import HF_HUB_OFFLINE

from hfkit.config.fields import HubFields
from hfkit.core.errors import Problem
from hfkit.core.hub_ids import repo_fault, revision_fault
from hfkit.hub.push import LOGIN
from hfkit.hub.stage import repo_of


def hub_problems(config) -> list[Problem]:
    """Return problems of a push: no login, invalid names, and settings that have no effect."""
    changed = {
        field.name: getattr(config, field.name)
        for field in fields(HubFields)
        if getattr(config, field.name) != field.default
    }
    if not config.push_to_hub:
        remedy = "has no effect without push_to_hub: true"
        return [Problem(key, value, remedy, keys=("push_to_hub",)) for key, value in changed.items()]

    problems = []
    if HF_HUB_OFFLINE:
        problems.append(
            Problem("push_to_hub", True, "the environment sets HF_HUB_OFFLINE: unset it, or remove push_to_hub")
        )
    elif get_token() is None:
        problems.append(Problem("push_to_hub", True, LOGIN))
    fault = repo_fault(repo_of(config))
    if fault:
        problems.append(Problem("hub_model_id", config.hub_model_id, fault))
    fault = revision_fault(config.hub_revision)
    if fault:
        problems.append(Problem("hub_revision", config.hub_revision, fault))
    if config.hub_strategy == "every_save" and getattr(config, "save_strategy", "no") == "no":
        remedy = "has no effect without checkpoints: set save_strategy"
        problems.append(Problem("hub_strategy", "every_save", remedy, keys=("save_strategy",)))
    return problems
