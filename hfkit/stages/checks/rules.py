"""Turns broken rules between the keys of a config into problems."""

from hfkit.core.errors import Problem


def broken_rules(config, rules: list[tuple]) -> list[Problem]:
    """Return a problem for each rule that a config breaks.

    Args:
        rules: each (whether it is broken, key, remedy, *other keys that it depends on).
    """
    return [Problem(key, getattr(config, key), remedy, keys=(*keys,)) for broken, key, remedy, *keys in rules if broken]
