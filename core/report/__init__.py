"""The run book: one page about a run, or several runs side by side, that opens anywhere.

assemble.py     what runs have stored (`core.visualization.store`) as one JSON document, in pieces
page/           the page that shows it: HTML, CSS and JavaScript, with nothing to fetch

``python -m core.report RUN [RUN ...] [-o FILE]`` writes a run's page anew, or compares runs.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from ..files import replace_whole
from ..visualization.store import PAGE
from .assemble import book_json
from .page import page_around_book

__all__ = ["COMPARISON", "PAGE", "write_comparison", "write_page"]

COMPARISON = "comparison.html"


def write_page(run_dir: Path) -> Path:
    """Write the page of a run beside what it stored, and return where it is.

    Raises:
        NotABook: The run has stored nothing.
        OSError: The page cannot be written; an older one stays as it is.
    """
    return write_comparison([run_dir], run_dir / PAGE)


def write_comparison(run_dirs: Sequence[Path], path: Path) -> Path:
    """Write one page about several runs, side by side, and return where it is.

    Args:
        run_dirs: Where they are.
        path: The page's file.

    Raises:
        NotABook: A run has stored nothing.
        OSError: The page cannot be written; an older one stays as it is.
    """
    before, behind = page_around_book()
    texts = chain([before], book_json(run_dirs), [behind])
    replace_whole(path, (text.encode() for text in texts))
    return path
