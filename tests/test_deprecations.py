"""A deprecated call in hfkit's code fails the suite: pyproject's filterwarnings makes it an error."""

import warnings

import pytest


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_a_deprecated_call_of_ours_is_an_error(category):
    with pytest.raises(category):
        warnings.warn_explicit("old", category, "models.py", 1, module="hfkit.models.loading")
    with pytest.raises(category):
        warnings.warn("old", category, stacklevel=1)
