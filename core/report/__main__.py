"""``python -m core.report RUN [RUN ...] [-o FILE]``."""

import argparse
import sys
from pathlib import Path

from ..visualization.store import FOLDER, NotABook
from . import COMPARISON, PAGE, write_comparison


def main() -> None:
    """Write the page of a run, or one that compares several, and say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m core.report",
        description="Write the page of a run anew from what it stored, or compare several runs.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help=f"the page; of one run {PAGE} in its directory, of several {COMPARISON} here",
    )
    arguments = parser.parse_args()
    runs = [run.parent if run.name == FOLDER else run for run in arguments.runs]
    path = arguments.output or (runs[0] / PAGE if len(runs) == 1 else Path(COMPARISON))
    try:
        for run in runs:
            if not (run / FOLDER).is_dir():
                raise NotABook(f"{run} has no folder {FOLDER}: it is no run, or it had no pictures")
        path.parent.mkdir(parents=True, exist_ok=True)
        print(write_comparison(runs, path))
    except NotABook as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {path} cannot be written: {error.strerror or error}")


if __name__ == "__main__":
    main()
