"""A push to the Hub that could not come off, or settings of one that is not asked for."""

from dataclasses import fields

from huggingface_hub import get_token
from huggingface_hub.constants import HF_HUB_OFFLINE

from hfkit.config.fields import HubFields
from hfkit.core.errors import Problem
from hfkit.core.hub_ids import repo_id_error, revision_error
from hfkit.hub.push import LOGIN
from hfkit.hub.push_to_hub import repo_id_of


def hub_problems(config) -> list[Problem]:
    """Told before training starts: nobody logged in, a name that is none, a setting without effect."""
    changed = {
        field.name: getattr(config, field.name)
        for field in fields(HubFields)
        if getattr(config, field.name) != field.default
    }
    if not config.push_to_hub:
        return [Problem(key, value, "has no effect without push_to_hub: true") for key, value in changed.items()]

    problems = []
    if HF_HUB_OFFLINE:
        problems.append(Problem("push_to_hub", True, "HF_HUB_OFFLINE is set: leave out one of the two"))
    elif get_token() is None:
        problems.append(Problem("push_to_hub", True, LOGIN))
    fault = repo_id_error(repo_id_of(config))
    if fault:
        problems.append(Problem("hub_model_id", config.hub_model_id, fault))
    fault = revision_error(config.hub_revision)
    if fault:
        problems.append(Problem("hub_revision", config.hub_revision, fault))
    if config.hub_strategy == "every_save" and getattr(config, "save_strategy", "no") == "no":
        problems.append(Problem("hub_strategy", "every_save", "has no effect without checkpoints: set save_strategy"))
    return problems
