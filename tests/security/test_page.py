"""docs/guides/security.md says what these tests try."""

import re
from collections import Counter
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "security.md").read_text(encoding="utf-8")


def test_the_page_counts_the_inputs_of_each_category(request):
    items = request.session.items
    if not {*Path(__file__).parent.glob("test_*.py")} <= {item.path for item in items} or request.config.option.keyword:
        pytest.skip("not all of the folder's tests are collected")
    tried = Counter(marker.args[0] for item in items if (marker := item.get_closest_marker("hostile")))
    assert min(tried.values()) >= 10
    listed = re.findall(r"^\| ([a-z ]+) \| .* \| (\d+) \|$", PAGE, re.MULTILINE)
    assert {category: int(count) for category, count in listed} == tried
