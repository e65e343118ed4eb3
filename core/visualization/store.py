"""The files of a run book: what they hold, how they are written, how they are read.

They lie in one folder, ``RUN/pictures``::

    start-0001.json                   each start of the run: when, from which step, versions
    clip-KEY-001.json.gz              frames and ground truth of a clip, once
    val-0001-00000100-00001.json.gz   one clip of one event: STAGE-START-STEP-NUMBER
    objects-0001-00000100.csv         metrics of all objects; of the first and the last validation
    outcomes-0001-00000100.json.gz    what became of them on every frame; of the last validation
    curves.jsonl                      curves, one line per step
    thinned.json                      how many events were removed again, by kind
    doctor.json                       what was wrong at each validation

A file appears whole or not at all and is never changed, but for the last three. A compressed one
has two lines: a small header, and the part that goes into a page as it stands. Masks are run
lengths as COCO's tools compress them, of rows instead of columns. Errors are told by what differs
from what the stored masks say: pixels where any object is hit, missed, or claimed falsely.
"""

import contextlib
import gzip
import itertools
import json
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
from pycocotools import mask as coco

from .. import files
from .images import deflate

FORMAT = 2
FOLDER = "pictures"
CURVES = "curves.jsonl"
PAGE = "run.html"
SETTINGS = "settings.json"  # beside the folder: those that differ from the defaults

_GZIP = 31  # what zlib calls the largest window, in a file of gzip
_EVENT = re.compile(r"(?P<stage>.+)-(?P<start>\d{4})-(?P<step>\d{8,})-(?P<number>\d{5,})\.json\.gz")
_CLIP = re.compile(r"clip-(?P<key>.+)-(?P<piece>\d{3,})\.json\.gz")
_START = re.compile(r"start-(?P<start>\d{4,})\.json")
_OUTCOMES = re.compile(r"outcomes-(?P<start>\d{4,})-(?P<step>\d{8,})\.json\.gz")
_PARTIAL = re.compile(r"\.[0-9a-f]{8}\.part$")  # see `files.whole_file`
_TABLE = re.compile(r"objects-(?P<start>\d{4,})-(?P<step>\d{8,})\.csv")


class NotABook(ValueError):
    """A file, or a folder, is none of a run book's; the message tells in one sentence why."""


def encode_mask(mask: np.ndarray) -> str:
    """Return a mask [h, w] bool as COCO's compressed run lengths of its rows; empty: no text."""
    if not mask.any():
        return ""
    # Its tools go down the columns of an array in Fortran's order, which are the rows of this one.
    return coco.encode(np.ascontiguousarray(mask).view(np.uint8).T)["counts"].decode("ascii")


def rounded(value: Any, digits: int = 4) -> Optional[float]:
    """Return a number as JSON holds it, None where it is not finite."""
    value = float(value)
    return round(value, digits) if math.isfinite(value) else None


@dataclass(frozen=True)
class Stored:
    """A compressed file of a run book.

    Attributes:
        path: Where it lies.
        header: What is known of it; see `write`.
        body: JSON, ready to stand in a page.
    """

    path: Path
    header: dict[str, Any]
    body: str

    def content(self) -> Any:
        """Return the body as objects.

        Raises:
            NotABook: It is no JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise NotABook(f"{self.path.name} is damaged") from error


def write(path: Path, header: Mapping[str, Any], body: str) -> int:
    """Write a compressed file, whole or not at all.

    Args:
        path: Where; its folder must be there.
        header: Small, JSON; the format's number is added.
        body: JSON without line breaks.

    Returns:
        Its size in bytes.
    """
    text = f"{files.as_json({'format': FORMAT, **header})}\n{body}\n"
    packer = deflate.compressobj(2, deflate.DEFLATED, _GZIP)
    return files.replace_whole(path, packer.compress(text.encode()) + packer.flush())


def read(path: Path, *, header_only: bool = False) -> Stored:
    """Read a compressed file.

    Args:
        path: Where it lies.
        header_only: Leave its body alone, and unchecked.

    Raises:
        NotABook: It is truncated, damaged or no file of a run book.
        OSError: It cannot be read.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            header = json.loads(file.readline())
            body = "" if header_only else file.readline()
            end = "" if header_only else file.read()
    except (
        EOFError,
        gzip.BadGzipFile,
        zlib.error,
        ValueError,
    ) as error:
        raise NotABook(f"{path.name} is damaged or was not written to its end") from error
    if not isinstance(header, dict) or "format" not in header or end.strip():
        raise NotABook(f"{path.name} is no file of a run book")
    _check_format(path, header["format"])
    return Stored(path, header, body.rstrip("\n"))


def _check_format(path: Path, found: Any) -> None:
    if found != FORMAT:
        raise NotABook(f"{path.name} has format {found!r}; this version reads format {FORMAT}")


@dataclass(frozen=True)
class EventFile:
    """What the name of an event's file tells.

    Attributes:
        path: Where it lies.
        stage: ``val``, ``train``, ``worst`` or whatever it was called.
        start: Which start of the run wrote it, from 1.
        step: Optimizer steps taken.
        number: Its place among the files of that start.
    """

    path: Path
    stage: str
    start: int
    step: int
    number: int


@dataclass
class Folder:
    """What the names in a run book's folder tell.

    What a start stored and a later one, which went on from an earlier step, did again is left out.

    Attributes:
        path: ``RUN/pictures``.
        starts: The content of each start's file, in order.
        events: By step and number.
        clips: The files of each clip's frames, by key.
        tables: The metrics of all objects, by step; of the first and the last validation.
        outcomes: What became of them, by step; of the last validation.
        size: Bytes of all files.
        skipped: What could not be read, one sentence each.
    """

    path: Path
    starts: list[dict[str, Any]] = field(default_factory=list)
    events: list[EventFile] = field(default_factory=list)
    clips: dict[str, list[Path]] = field(default_factory=dict)
    tables: dict[int, Path] = field(default_factory=dict)
    outcomes: dict[int, Path] = field(default_factory=dict)
    size: int = 0
    skipped: list[str] = field(default_factory=list)


def event_path(folder: Path, stage: str, start: int, step: int, count: int) -> Path:
    """Return where an event is stored."""
    name = re.sub(r"[^\w.]+", "_", stage) or "_"
    return folder / f"{name}-{start:04d}-{step:08d}-{count:05d}.json.gz"


def clip_path(folder: Path, key: str, piece: int) -> Path:
    """Return where a piece of a clip's frames is stored, from 1."""
    return folder / f"clip-{key}-{piece:03d}.json.gz"


def table_path(folder: Path, start: int, step: int) -> Path:
    """Return where the metrics of a validation's objects are stored."""
    return folder / f"objects-{start:04d}-{step:08d}.csv"


def outcomes_path(folder: Path, start: int, step: int) -> Path:
    """Return where it is stored what became of a validation's objects."""
    return folder / f"outcomes-{start:04d}-{step:08d}.json.gz"


def outcomes_paths(folder: Path) -> list[Path]:
    """Return all files of this kind that are there."""
    return _paths_of(folder, _OUTCOMES)


def table_paths(folder: Path) -> list[Path]:
    """Return all tables that are there, those of steps that were done again among them."""
    return _paths_of(folder, _TABLE)


def _paths_of(folder: Path, names: re.Pattern[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if names.fullmatch(path.name))


def clip_paths(folder: Path, key: str) -> list[Path]:
    """Return the pieces of a clip's frames that are there, in order."""
    paths = (clip_path(folder, key, piece) for piece in itertools.count(1))
    return list(itertools.takewhile(Path.is_file, paths))


def start_path(folder: Path, start: int) -> Path:
    """Return where a start of the run is stored, from 1."""
    return folder / f"start-{start:04d}.json"


def is_book(folder: Path) -> bool:
    """Return whether a folder is that of a run book."""
    return start_path(folder, 1).is_file()


def is_unbegun(folder: Path, old: Optional[Path] = None) -> bool:
    """Return whether a folder holds nothing yet, or only what a book's first writes leave behind.

    That is what `carry_over` puts there, the first line of the curves, and files that a killed
    process had begun to write: no event of a run's own, and no start.

    Args:
        folder: It need not be there.
        old: The folder of the book that is to go on there, if any.
    """
    paths = folder.iterdir() if folder.is_dir() else ()
    return all(_is_left_behind(path, old) for path in paths)


def _is_left_behind(path: Path, old: Optional[Path]) -> bool:
    name = _PARTIAL.sub("", path.name)
    is_start = _START.fullmatch(name) is not None
    if is_start and name != path.name:
        return True
    if old is not None and (old / name).is_file():
        return not is_start or path.read_bytes() == (old / name).read_bytes()
    return name == CURVES and not read_curves(path.parent)


def last_start(folder: Path) -> int:
    """Return the number of the last start that is stored, of any format; 0: there is none."""
    found = [_START.fullmatch(path.name) for path in folder.glob("start-*.json")]
    return max((int(match["start"]) for match in found if match), default=0)


def list_folder(folder: Path) -> Folder:
    """Read the names in a run book's folder, and the files of its starts.

    Raises:
        NotABook: There is no run book.
        OSError: The folder cannot be read.
    """
    if not is_book(folder):
        raise NotABook(f"{folder.name} holds no run book: start-0001.json is missing")
    found = Folder(folder)
    tables: list[tuple[int, int, Path]] = []
    outcomes: list[tuple[int, int, Path]] = []
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # thinned meanwhile
            found.size += path.stat().st_size
        if match := _START.fullmatch(path.name):
            _add_start(found, path)
        elif match := _CLIP.fullmatch(path.name):
            found.clips.setdefault(match["key"], []).append(path)
        elif match := _EVENT.fullmatch(path.name):
            start, step, count = (int(match[name]) for name in ("start", "step", "number"))
            found.events.append(EventFile(path, match["stage"], start, step, count))
        elif match := _TABLE.fullmatch(path.name):
            tables.append((int(match["start"]), int(match["step"]), path))
        elif match := _OUTCOMES.fullmatch(path.name):
            outcomes.append((int(match["start"]), int(match["step"]), path))
    ends = _ends(found.starts)
    found.events = [event for event in found.events if event.step < ends.get(event.start, math.inf)]
    found.events.sort(key=lambda event: (event.step, event.start, event.number))
    for kept, paths in ((found.tables, tables), (found.outcomes, outcomes)):
        kept |= {step: path for start, step, path in paths if step < ends.get(start, math.inf)}
    return found


def _add_start(found: Folder, path: Path) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _check_format(path, content["format"])
        found.starts.append(content)
    except (NotABook, OSError, ValueError, KeyError, TypeError) as error:
        told = str(error) if isinstance(error, NotABook) else f"{path.name} cannot be read"
        found.skipped.append(told)


def _ends(starts: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return the first step of each start that a later one did again."""
    ends: dict[int, float] = {}
    first_again = math.inf
    for content in sorted(starts, key=lambda content: -content["start"]):
        ends[content["start"]] = first_again
        first_again = min(first_again, content["step"])
    return ends


def append_curves(folder: Path, lines: Sequence[Mapping[str, Any]]) -> int:
    """Append lines to the curves; return how many bytes.

    Args:
        folder: Of the run book.
        lines: ``{"step": int, "values": {name: number}}``, or ``{"start": step}`` where a run
            begins, or begins again, before that step.
    """
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    data = text.encode("utf-8", "backslashreplace")
    path = folder / CURVES
    with path.open("ab+") as file:
        # A line that was cut off when the process was killed ends here.
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) is not None:
            data = data if file.read(1) == b"\n" else b"\n" + data
        file.write(data)
    return len(data)


def read_curves(folder: Path) -> dict[str, dict[str, list]]:
    """Return ``{name: {"steps": [...], "values": [...]}}``; lines that are damaged are left out."""
    points: dict[str, dict[int, float]] = {}
    path = folder / CURVES
    if not path.is_file():
        return {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            content = json.loads(line)
            if "start" in content:
                _forget_from(points, content["start"])
                continue
            for name, value in content["values"].items():
                points.setdefault(name, {})[int(content["step"])] = value
    curves: dict[str, dict[str, list]] = {}
    for name, by_step in points.items():
        if by_step:
            steps = sorted(by_step)
            curves[name] = {"steps": steps, "values": [by_step[step] for step in steps]}
    return curves


def _forget_from(points: dict[str, dict[int, float]], first: int) -> None:
    for name in points:
        points[name] = {step: value for step, value in points[name].items() if step < first}


def read_end(folder: Path) -> Optional[str]:
    """Return when the run ended; None: it runs on, or was killed."""
    try:
        lines = (folder / CURVES).read_text(encoding="utf-8", errors="replace").splitlines()
        return json.loads(lines[-1]).get("end") if lines else None
    except (OSError, ValueError, AttributeError):
        return None


def names_of_runs(run_dirs: Sequence[Path]) -> list[str]:
    """Return the name of each run directory, with those of the folders around it where need be.

    That is where the one around it says more, and until no other directory has the same name.
    """
    paths = [run_dir.absolute() for run_dir in run_dirs]
    folders = {path: path.relative_to(path.anchor).parts for path in paths}
    lengths = {path: 2 if _says_little(parts) else 1 for path, parts in folders.items()}
    while True:
        names = {path: "/".join(parts[-lengths[path] :]) for path, parts in folders.items()}
        counts = Counter(names.values())
        alike = [path for path, name in names.items() if counts[name] > 1]
        longer = [path for path in alike if lengths[path] < len(folders[path])]
        if not longer:
            return [names[path] for path in paths]
        lengths |= {path: lengths[path] + 1 for path in longer}


def _says_little(folders: Sequence[str]) -> bool:
    """Return whether the last folder of a path is a number, or lies in that of a date."""
    around, last = ("", "", *folders)[-2:]
    return last.isdigit() or re.fullmatch(r"\d{4}-\d\d-\d\d", around) is not None


def read_thinned(folder: Path) -> dict[str, int]:
    """Return how many events of each kind were removed to stay within the folder's size."""
    try:
        content = json.loads((folder / "thinned.json").read_text(encoding="utf-8"))
        return {str(kind): int(count) for kind, count in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def write_thinned(folder: Path, counts: Mapping[str, int]) -> None:
    """Store what `read_thinned` returns."""
    files.replace_whole(folder / "thinned.json", json.dumps(dict(counts)).encode())


def read_diagnoses(folder: Path) -> list[dict[str, Any]]:
    """Return what `write_diagnoses` stored; nothing where that is missing or damaged."""
    try:
        content = json.loads((folder / "doctor.json").read_text(encoding="utf-8"))
        return [{"step": each["step"], "faults": list(each["faults"])} for each in content]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write_diagnoses(folder: Path, diagnoses: Sequence[Mapping[str, Any]]) -> None:
    """Store what was wrong at each validation: its step, and its faults in plain types."""
    files.replace_whole(folder / "doctor.json", files.as_json(diagnoses).encode())


def carry_over(old: Path, new: Path) -> None:
    """Begin a folder with what the run stored whose checkpoint is resumed.

    Files that never change are linked where the system can, else copied. Where it failed midway it
    can be called again.
    """
    changing = (CURVES, "thinned.json", "doctor.json")
    new.mkdir(parents=True, exist_ok=True)
    # The first start comes last: without it, it is no run book yet.
    paths = sorted(old.iterdir(), key=lambda path: (path == start_path(old, 1), path))
    for path in paths:
        known = (_EVENT, _CLIP, _START, _TABLE, _OUTCOMES)
        if path.name in changing:
            files.replace_whole(new / path.name, path.read_bytes())
        elif any(pattern.fullmatch(path.name) for pattern in known):
            _link_or_copy(path, new / path.name)


def _link_or_copy(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except FileExistsError:
        return
    except OSError:
        files.replace_whole(target, path.read_bytes())


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process had begun to write."""
    for path in itertools.chain(folder.glob("*.part"), folder.parent.glob(f"{PAGE}.*.part")):
        with contextlib.suppress(OSError):
            path.unlink()
