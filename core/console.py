"""What a run prints: what is about the run, on rank zero alone, and the same in ``train.log``.

Hydra builds the handlers and filters as ``configs/config.yaml`` says, before anything is imported:
this module needs the standard library alone.
"""

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

# What Lightning says of this run; the rest of its information is about machines in general.
_TOLD_BY_LIGHTNING = re.compile(r"Restored|SLURM")

# Warnings of libraries that a user can do nothing with, by how they begin.
_KNOWN = (
    r"Matplotlib is building the font cache",
    # Lightning's own affair with torch.
    r".*LeafSpec.*is deprecated",
    # `VideoMetrics` is of all ranks already.
    r".*'val/(iou|iou_copy|dice|J|F|J&F|failures|identity_switches|frames_until_failure"
    r"|source)['/@]"
    r".*sync_dist=True",
    # A skipped batch: our own warning says so.
    r"`training_step` returned `None`",
    # A resumed run has a folder of its own; `BestCheckpoint` keeps the best all the same.
    r"The dirpath has changed from",
    # Steps are counted across epochs, so that a short epoch loses no row.
    r"The number of training batches .* is smaller than the logging interval",
)

# Addressed to who wrote the code that is warned of.
_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


class ConsoleHandler(logging.StreamHandler):
    """Writes to what ``sys.stdout`` is at the time, so that lines come above a progress bar.

    Attributes:
        rank: Of this process; others than rank zero show errors alone.
    """

    rank = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless it is for the file alone or another rank's information."""
        if getattr(record, "file_only", False) or (self.rank and record.levelno < logging.ERROR):
            return
        self.stream = sys.stdout
        super().emit(record)


class ConsoleFormatter(logging.Formatter):
    """The message alone; warnings and errors say that they are, in colour at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        text = super().format(record)
        if record.levelno < logging.WARNING:
            return text
        level = record.levelname.lower()
        if sys.stdout.isatty():
            level = f"\x1b[1;{31 if record.levelno >= logging.ERROR else 33}m{level}\x1b[0m"
        return f"{level}: {text}"


class AboutTheRun(logging.Filter):
    """Lets our own records pass, and of libraries what is about this run."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is shown."""
        if record.name.partition(".")[0] in ("core", "train", "__main__"):
            return True
        if record.levelno >= logging.WARNING:
            return not any(re.match(known, record.getMessage()) for known in _KNOWN)
        lightning = record.name.startswith("lightning")
        return lightning and bool(_TOLD_BY_LIGHTNING.search(record.getMessage()))


def quiet_other_ranks(rank: int) -> None:
    """Leave the console to rank zero; errors of other ranks are shown nevertheless.

    Args:
        rank: Of this process.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ConsoleHandler):
            handler.rank = rank


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Have Python's warnings come as one line each, in ``train.log`` too.

    Those that are addressed to developers, and those that are known to be of no use, do not come.
    """
    with warnings.catch_warnings():
        for category in _FOR_DEVELOPERS:
            warnings.filterwarnings("ignore", category=category)
        for known in _KNOWN:
            warnings.filterwarnings("ignore", message=known)
        warnings.showwarning = _show  # type: ignore[assignment]
        yield


def _show(message: Any, *where: Any) -> None:
    log.warning("%s", " ".join(str(message).split()))


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Return lines of a name and what is said of it.

    Args:
        rows: Names have at most 10 characters.
    """
    return "\n".join(f"{name:<11} {said}" for name, said in rows)


def short_path(path: Path) -> Path:
    """Return a path as it may be typed where the program was started."""
    here = Path.cwd()
    return path.relative_to(here) if here in path.parents else path


def to_file(message: str) -> None:
    """Write a line to ``train.log`` alone."""
    log.info("%s", message, extra={"file_only": True})
