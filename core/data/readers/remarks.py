"""What a person should know of files that are read all the same."""

from collections.abc import Iterable
from dataclasses import dataclass

from ...checks import in_one_line

# files that a line names
_NAMED = 3


@dataclass(frozen=True)
class Remark:
    """Something about one file.

    Attributes:
        file: What the file is called.
        text: What holds for it; files of the same text share a line.
    """

    file: str
    text: str


def in_lines(remarks: Iterable[Remark]) -> list[str]:
    """Return one line for each text, with the first of its files and their number."""
    files: dict[str, dict[str, None]] = {}
    for remark in remarks:
        files.setdefault(remark.text, {})[remark.file] = None
    return [in_one_line(f"{_name(list(names))}: {text}") for text, names in files.items()]


def _name(files: list[str]) -> str:
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return ", ".join(files[:_NAMED]) + more
