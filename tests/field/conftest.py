"""A folder whose name has none of the words that messages are searched for."""

import pytest


@pytest.fixture
def folder(tmp_path_factory):
    """Return an empty folder."""
    path = tmp_path_factory.mktemp("x") / "set"
    path.mkdir()
    return path
