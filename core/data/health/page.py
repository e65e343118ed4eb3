"""``index.html``: what is unusual, clips as training sees them, what is there; one file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...files import as_json
from ...report.page import page_around_own, without_paths
from ..readers.files import DataError
from .collect import LIFETIMES, SIDES, Collection, Split
from .pictures import draw
from .problems import KINDS, Finding, View

# Of each kind of problem so many are shown in pictures, and so many more in words.
_SHOWN, _TOLD = 3, 200
_MOST_CLASSES = 200


@dataclass(frozen=True)
class Sheet:
    """A clip as training or validation sees it.

    Attributes:
        text: What it is.
        jpeg: The sheet.
    """

    text: str
    jpeg: bytes


def build_page(
    title: str,
    lines: Sequence[str],
    collection: Collection,
    problems: Sequence[tuple[str, Sequence[Finding]]],
    sheets: Sequence[Sheet],
) -> str:
    """Return the page.

    Args:
        title: What the data set is called.
        lines: What was read, and what is there, in sentences.
        collection: What was read.
        problems: What `rank` returns.
        sheets: Clips as they are seen.
    """
    book = {
        "title": without_paths(title),
        "lines": without_paths(list(lines)),
        "problems": [_problem(kind, found, collection) for kind, found in problems],
        "sheets": [
            {"text": without_paths(sheet.text), "src": _as_source(sheet.jpeg)} for sheet in sheets
        ],
        "charts": [_sides(collection), _lifetimes(collection)],
        "splits": list(collection.splits),
        "classes": _classes(list(collection.splits.values())),
    }
    before, behind = page_around_own(
        Path(__file__).parent,
        "health",
        "Data check",
        {"problems": "Problems", "clips": "Clips", "contents": "What is there"},
    )
    return before + as_json(book) + behind


def _problem(kind: str, found: Sequence[Finding], collection: Collection) -> dict[str, Any]:
    told = [_name(finding, collection) for finding in found]
    return {
        "title": KINDS[kind].title,
        "todo": KINDS[kind].todo,
        "harm": KINDS[kind].harm,
        "count": len(found),
        "videos": len({finding.video for finding in found}),
        "examples": [
            {
                "text": text,
                "views": [_picture(view, finding, collection) for view in finding.views],
            }
            for text, finding in zip(told[:_SHOWN], found, strict=False)
        ],
        "more": told[_SHOWN : _SHOWN + _TOLD],
    }


def _name(finding: Finding, collection: Collection) -> str:
    split, video = finding.video
    name = collection.splits[split].reader.names[video]
    return without_paths(f"{split} · {name}: {finding.text}")


def _picture(view: View, finding: Finding, collection: Collection) -> dict[str, str]:
    reader = collection.splits[view.split].reader
    try:
        frame = reader.video(view.video).frames[view.place + view.frame]
        note = f", {view.note}" if view.note else ""
        elsewhere = (view.split, view.video) != finding.video
        where = f"{view.split} · {reader.names[view.video]} · " if elsewhere else ""
        caption = f"{where}frame {frame.frame_idx}{note}"
        return {"src": _as_source(draw(view, reader)), "caption": without_paths(caption)}
    except DataError as error:
        return {"src": "", "caption": without_paths(str(error))}


def _as_source(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _sides(collection: Collection) -> dict[str, Any]:
    names = [f"< {SIDES[0]}", *(f"{a}–{b}" for a, b in pairwise(SIDES))]
    names.append(f"≥ {SIDES[-1]}")
    title = f"Sizes: pixels along a side at model.image_size={collection.image_size}"
    counts = {label: split.sides for label, split in collection.splits.items()}
    return {"title": title, "names": names, "counts": counts}


def _lifetimes(collection: Collection) -> dict[str, Any]:
    names = [f"≤ {round(100 * limit)} %" for limit in LIFETIMES[:-2]] + ["< 100 %", "all"]
    counts = {label: split.lifetimes for label, split in collection.splits.items()}
    return {
        "title": "Lifetimes: in how many of its video's frames",
        "names": names,
        "counts": counts,
    }


def _classes(splits: Sequence[Split]) -> dict[str, Any]:
    total = {name: 0 for split in splits for name in split.classes}
    for split in splits:
        for name, count in split.classes.items():
            total[name] += count
    order = sorted(total, key=lambda name: (-total[name], name))
    rows = [[name, *(split.classes[name] for split in splits)] for name in order[:_MOST_CLASSES]]
    return {"rows": rows, "left_out": max(0, len(order) - _MOST_CLASSES)}
