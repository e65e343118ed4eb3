"""Pages: HTML files that need no server and no network.

page.html, base.css, helpers.js and theme.js are of every page; the others are of the run book.
"""

import base64
import hashlib
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
    JSON between the two, which the scripts find in the element ``book``, no ``<`` may begin a tag
    or a comment, which would end the block or hide its end: `core.files.as_json` sees to that.

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
