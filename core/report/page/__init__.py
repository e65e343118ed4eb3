"""The page of the run book: one HTML file that needs no server, no network and no other file."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

_ASSETS = Path(__file__).parent
# In the order in which they run: each uses what stands above it.
_SCRIPTS = (
    "helpers", "runs", "masks", "frames", "state", "layers", "prompts", "panels", "pointer",
    "charts", "viewer", "summary", "doctor", "outcomes", "objects", "about", "keys", "start",
)  # fmt: skip


def page_around_book() -> tuple[str, str]:
    """Return the text of the page before and behind the JSON of its book.

    The page forbids its browser every request and every script but its own. In the JSON between
    the two, ``<`` must not stand before ``/``, ``!`` or ``s``: it would end the block or hide its
    end.
    """
    scripts = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{scripts}}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {"script-hash": digest, "style": _asset("book.css"), "script": script}
    before, behind = (
        re.sub(r"\{\{([a-z-]+)\}\}", lambda found: parts[found[1]], half)
        for half in _asset("book.html").split("{{book}}")
    )
    return before, behind


def render_page(book: dict[str, Any]) -> str:
    """Return the page that shows a book, as the text of one HTML file.

    Args:
        book: Runs with their clips and curves; JSON types alone.

    Raises:
        ValueError: The book holds NaN or infinite numbers.
    """
    data = json.dumps(book, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # File names may hold halves of characters, which UTF-8 has not; JSON can escape them.
    data = data.encode("utf-8", "backslashreplace").decode()
    # JSON needs no < outside its strings, and in them it may be written so: nothing ends the block.
    before, behind = page_around_book()
    return before + data.replace("<", "\\u003c") + behind


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
