"""The text of the run book's page; what a browser makes of it is tested in tests/browser."""

import base64
import hashlib
import json
import math
import re
from pathlib import Path

import pytest
from books import page_of

import core.report.page
from core.report.page import page_around_book

BOOK = {"format": 2, "title": "run", "runs": []}


def scripts(html: str) -> list[tuple[str, str]]:
    """Return attributes and text of each script element as a browser finds them."""
    return re.findall(r"<script([^>]*)>(.*?)</script", html, re.DOTALL | re.IGNORECASE)


def test_only_the_pages_own_script_may_run():
    (_, _), (attributes, script) = scripts(page_of(BOOK))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page_of(BOOK))
    assert attributes == ""
    assert f"script-src 'sha256-{digest}'" in policy.split("; ")
    assert "default-src 'none'" in policy.split("; ")


@pytest.mark.parametrize("name", ["</script><b>", "<!--<script>", "{{script}}", "a\\u003c\udc80é"])
def test_no_text_of_a_book_ends_its_block(name):
    html = page_of({**BOOK, "title": name})
    html.encode()
    (attributes, data), _ = scripts(html)
    assert 'type="application/json"' in attributes
    assert not re.search("<[/!s]", data, re.IGNORECASE)
    assert json.loads(data)["title"] == name


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_json_has_not_is_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        page_of({**BOOK, "value": value})


def test_the_page_asks_for_no_other_file():
    before, behind = page_around_book()
    assert before.endswith('<script type="application/json" id="book">')
    assert behind.startswith("</script>")
    for text in (before, behind):
        assert "{{" not in text
        for address in re.findall(r"""(?:src|href)=["']?([^"'\s>]*)""", text):
            assert address.startswith(("#", "data:"))


def test_each_script_of_the_folder_is_in_the_page():
    _, behind = page_around_book()
    folder = Path(core.report.page.__file__).parent
    for path in folder.glob("*.js"):
        assert path.read_text(encoding="utf-8") in behind, path.name
