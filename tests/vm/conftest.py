"""The longest test first: two run at a time.

`make test` runs the story, the mistakes of test_errors.py, the power cuts of
test_power.py, and of test_lab.py what boots nothing.  All else is slow: it runs in
`make test-all`.
"""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != "test_story.py")
