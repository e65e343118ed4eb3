"""Pages: HTML files that need no server and no network.

page.html, base.css, helpers.js and theme.js are of every page; the others are of the run book.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ASSETS = Path(__file__).parent
# In the order in which they run: each uses what stands above it.
_EVERY_PAGE = ("helpers", "theme")
_SCRIPTS = (
    "runs", "masks", "frames", "state", "layers", "prompts", "panels", "pointer", "charts",
    "viewer", "summary", "doctor", "outcomes", "objects", "about", "keys", "start",
)  # fmt: skip
_PARTS = {
    "viewer": "Clips",
    "outcomes": "Failures",
    "objects": "Objects",
    "curves": "Curves",
    "about": "About the run",
}
# The folders of a path from the root of a file system; its last part says enough.
_FOLDERS = re.compile(r"(?<![^\s\"'(\[{=,])(?:[A-Za-z]:)?[/\\](?:[^/\\\s\"',;]+[/\\])*(?=[^/\\\s])")


def page_around(
    title: str,
    links: Mapping[str, str],
    body: str,
    style: str,
    scripts: Sequence[str],
    media: str = "'none'",
) -> tuple[str, str]:
    """Return the text of a page before and behind the JSON that its scripts show.

    The page forbids its browser every script but its own, and every request but for `media`. In the
    JSON between the two, which the scripts find in the element ``book``, ``<`` must not stand
    before ``/``, ``!`` or ``s``: it would end the block or hide its end.

    Args:
        title: Of the page, until its scripts give it another.
        links: What the top of the page leads to: {id of an element: words}.
        body: Its elements below the top, as HTML.
        style: CSS, beside that of every page.
        scripts: JavaScript, which runs after that of every page, and calls its `showPage`.
        media: Where films may come from, as a Content-Security-Policy has it.
    """
    texts = "\n".join([*(_asset(f"{name}.js") for name in _EVERY_PAGE), *scripts])
    script = f'"use strict";\n(() => {{\n{texts}}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "script-hash": digest,
        "style": _asset("base.css") + style,
        "script": script,
        "title": title,
        "first": next(iter(links)),
        "links": "".join(
            f'<a href="#{name}" id="to-{name}">{words}</a>' for name, words in links.items()
        ),
        "body": body,
        "media": media,
    }
    before, behind = (
        re.sub(r"\{\{([a-z-]+)\}\}", lambda found: parts[found[1]], half)
        for half in _asset("page.html").split("{{book}}")
    )
    return before, behind


def page_around_own(
    folder: Path, name: str, title: str, links: Mapping[str, str], media: str = "'none'"
) -> tuple[str, str]:
    """Return `page_around` of a page whose HTML, CSS and JavaScript are one file each.

    Args:
        folder: Where they lie.
        name: What they are called, without suffix.
        title: See `page_around`.
        links: See `page_around`.
        media: See `page_around`.
    """
    body, style, script = (
        (folder / f"{name}.{suffix}").read_text(encoding="utf-8")
        for suffix in ("html", "css", "js")
    )
    return page_around(title, links, body, style, [script], media)


def page_around_book() -> tuple[str, str]:
    """Return the text of the run book's page before and behind the JSON of its book."""
    scripts = [_asset(f"{name}.js") for name in _SCRIPTS]
    return page_around("Run book", _PARTS, _asset("book.html"), _asset("book.css"), scripts)


def as_block(data: Any) -> str:
    """Return JSON that may stand between the two halves of `page_around`.

    Raises:
        ValueError: It holds NaN or infinite numbers.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # File names may hold halves of characters, which UTF-8 has not; JSON can escape them.
    text = text.encode("utf-8", "backslashreplace").decode()
    # JSON needs no < outside its strings, and in them it may be written so: nothing ends the block.
    return text.replace("<", "\\u003c")


def render_page(book: dict[str, Any]) -> str:
    """Return the page that shows a book, as the text of one HTML file.

    Args:
        book: Runs with their clips and curves; JSON types alone.

    Raises:
        ValueError: The book holds NaN or infinite numbers.
    """
    before, behind = page_around_book()
    return before + as_block(book) + behind


def without_paths(value: Any) -> Any:
    """Return JSON in which every absolute path of the machine is its last part alone."""
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, dict):
        return {name: without_paths(item) for name, item in value.items()}
    return value


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
