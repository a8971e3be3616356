"""Turns broken rules between the keys of a config into problems."""

from dataclasses import fields

from hfkit.config.validation import default_of
from hfkit.core.errors import Problem


def broken_rules(config, rules: list[tuple]) -> list[Problem]:
    """Return a problem for each rule that a config breaks.

    Args:
        rules: each (whether it is broken, key, remedy, *other keys that it depends on); keys of `extra` count too.
    """
    values = {**getattr(config, "extra", {}), **vars(config)}
    return [Problem(key, values.get(key), remedy, keys=(*keys,)) for broken, key, remedy, *keys in rules if broken]


def unused_rules(config, needed: dict[str, tuple]) -> list[tuple]:
    """Return the rules of keys that have no effect: they are set, and not to their default, but nothing reads them.

    Args:
        needed: by key, (whether something reads it, what is missing, *the keys that decide about it).
    """
    defaults = {field.name: default_of(field) for field in fields(config)}
    values = {**getattr(config, "extra", {}), **vars(config)}
    return [
        (values.get(key) not in (None, defaults.get(key)) and not is_read, key, f"has no effect {missing}", *decides)
        for key, (is_read, missing, *decides) in needed.items()
    ]
