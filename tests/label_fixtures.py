"""The servers of `hfkit label` that several tests share."""

import pytest
from label_pages import LabelServers


@pytest.fixture(scope="session")
def servers():
    """Starts servers of `hfkit label`: one process for all tests, since its imports take seconds."""
    with LabelServers() as started:
        yield started
