"""Collects the problems of a config."""

from hfkit.core.errors import ConfigError


def problems(config_of, tmp_path, stage, **changes) -> dict[str, str]:
    """Return the problems of a config, by key."""
    try:
        config_of(stage, tmp_path / "out", **changes)
    except ConfigError as error:
        return {problem.key: str(problem) for problem in error.problems}
    return {}
