"""Validates that a push to the Hub can succeed, before training starts."""

from dataclasses import fields

from huggingface_hub import get_token
from huggingface_hub.constants import HF_HUB_OFFLINE

from hfkit.config.fields import HubFields
from hfkit.core.errors import Problem
from hfkit.hub.names import repo_id_error, revision_error
from hfkit.hub.push import LOGIN
from hfkit.hub.push_to_hub import repo_id_of
from hfkit.stages.checks.rules import broken_rules


def hub_problems(config) -> list[Problem]:
    """Return problems of a push: no login, invalid names, and settings that have no effect."""
    if not config.push_to_hub:
        remedy = "has no effect without push_to_hub: true"
        changed = [field.name for field in fields(HubFields) if getattr(config, field.name) != field.default]
        return broken_rules(config, [(True, key, remedy, "push_to_hub") for key in changed])
    no_login = None if get_token() else LOGIN
    if HF_HUB_OFFLINE:
        no_login = "the environment sets HF_HUB_OFFLINE: unset it, or remove push_to_hub"
    repo, revision = repo_id_error(repo_id_of(config)), revision_error(config.hub_revision)
    no_saves = config.hub_strategy == "every_save" and getattr(config, "save_strategy", "no") == "no"
    rules = [
        (no_login, "push_to_hub", no_login),
        (repo, "hub_model_id", repo),
        (revision, "hub_revision", revision),
        (no_saves, "hub_strategy", "has no effect without checkpoints: set save_strategy", "save_strategy"),
    ]
    return broken_rules(config, rules)
