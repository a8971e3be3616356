"""Parses chat templates within the limits of `template_limits.py`: their variables, and whether they are Jinja."""

import re
from collections.abc import Callable, Hashable
from functools import cache, lru_cache, wraps

from jinja2 import TemplateSyntaxError, meta
from transformers import PreTrainedTokenizerBase

from hfkit.core.errors import reason
from hfkit.data.template_limits import (
    BoundedEnvironment,
    UnusableTemplateError,
    require_short,
    template_limits,
    with_remedy,
)

GENERATION_TAG = re.compile(r"{%(-?)\s*(?:end)?generation\s*(-?)%}")


def templates_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return a tokenizer's chat templates: a single one, or all named ones."""
    own = tokenizer.chat_template
    return [*own.values()] if isinstance(own, dict) else [own or ""]


def change_templates(tokenizer: PreTrainedTokenizerBase, change: Callable[[str], str]) -> None:
    """Change a tokenizer's chat templates: a single one, or all named ones; no template stays none."""
    own = tokenizer.chat_template
    if isinstance(own, dict):
        tokenizer.chat_template = {name: change(template) for name, template in own.items()}
    elif own:
        tokenizer.chat_template = change(own)


def cached_by_template(function: Callable) -> Callable:
    """Cache the results of a function by its tokenizer, the tokenizer's chat template, and the other arguments."""
    cached = cache(lambda tokenizer, template, *values: function(tokenizer, *values))

    @wraps(function)
    def call(tokenizer: PreTrainedTokenizerBase, *values: Hashable):
        return cached(tokenizer, repr(tokenizer.chat_template), *values)

    return call


def variables_in(template: str) -> set[str]:
    """Return the names that a chat template reads but does not set.

    Raises:
        UnusableTemplateError: the template exceeds a limit.
        TemplateSyntaxError, or any other exception: it is not Jinja.
    """
    require_short(template)
    return {*parsed_variables(template)}


@lru_cache(maxsize=32)
def parsed_variables(template: str) -> frozenset[str]:
    """Return what `variables_in` does; a run reads the same template for each of its models."""
    environment = BoundedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    with template_limits():
        return frozenset(meta.find_undeclared_variables(environment.parse(without_generation_tags(template))))


def template_fault(template: str) -> str | None:
    """Return why a chat template cannot be used (too long, or not Jinja), or None."""
    try:
        variables_in(template)
    except TemplateSyntaxError as error:
        return f"is not Jinja: line {error.lineno}: {error.message}"
    except UnusableTemplateError as error:
        return with_remedy(error)
    except Exception as error:  # Jinja may recurse too deeply
        return f"is not Jinja: {reason(error)}"
    return None


def without_generation_tags(template: str) -> str:
    """Return a chat template without the tags around trained tokens, which other Jinja engines do not support.

    Comments replace them: they render nothing and keep the control of white space.
    """
    return GENERATION_TAG.sub(r"{#\1 \2#}", template)
