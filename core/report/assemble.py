"""What runs have stored, as the one JSON document that their page shows.

Frames and masks, nearly all of it, are passed on as they lie on disk, piece by piece: a page may be
larger than what a training can spare of memory.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..files import as_json
from ..visualization import store
from ..visualization.cadence import TRAIN
from ..visualization.record import FrameRecord
from ..visualization.store import EventFile, Folder, NotABook
from .clips import ClipEvents, clips_of
from .page import without_paths
from .summary import summarize

_MAX_TRAIN_CLIPS = 40


def book_json(run_dirs: Sequence[Path]) -> Iterator[str]:
    """Yield the document about some runs in pieces of text that may stand in a ``<script>``.

    Raises:
        NotABook: A run has stored nothing.
        OSError: A folder cannot be read.
    """
    folders = [store.list_folder(run_dir / store.FOLDER) for run_dir in run_dirs]
    names = store.names_of_runs(run_dirs)
    seen: dict[str, FrameRecord] = {}
    yield f'{{"format":{store.FORMAT},"title":{as_json(" · ".join(names))},"runs":['
    for index, (name, folder) in enumerate(zip(names, folders, strict=True)):
        yield "," if index else ""
        yield from _run(index, name, folder, seen)
    yield "]}"


def _run(index: int, name: str, folder: Folder, seen: dict[str, FrameRecord]) -> Iterator[str]:
    skipped = list(folder.skipped)
    clips = clips_of(folder, skipped)
    others = [clip for clip in clips if _is_another(folder, clip, seen)]
    for clip in others:
        clip.shown_as = f"{clip.key} of run {index + 1}"
    of_training = [clip for clip in clips if clip.kind == TRAIN]
    left_out = {clip.key for clip in of_training[_MAX_TRAIN_CLIPS:]}
    yield as_json({"name": name, **summarize(folder, clips, skipped)})[:-1] + ',"clips":['
    separator = ""
    for clip in clips:
        if clip.key not in left_out:
            text = "".join(_clip(folder, clip, skipped))
            yield separator + text if text else ""
            separator = "," if text else separator
    notes = [*_notes(folder, clips, len(left_out)), *skipped]
    notes += [
        f"{clip.headers[0]['name']} has other frames than in the runs before: it is shown by itself"
        for clip in others
    ]
    yield f'],"notes":{as_json([without_paths(note) for note in notes])}}}'


def _is_another(folder: Folder, clip: ClipEvents, seen: dict[str, FrameRecord]) -> bool:
    """Return whether a run before has another clip by the same key; else remember this one."""
    try:
        header = store.read(folder.clips[clip.key][0], header_only=True).header
        first = FrameRecord(**header["frames"][0])
    except (NotABook, OSError, LookupError, TypeError):
        return False
    known = seen.setdefault(clip.key, first)
    return known.number == first.number and not known.shows_the_same_as(first)


def _clip(folder: Folder, clip: ClipEvents, skipped: list[str]) -> Iterator[str]:
    """Yield a clip with its frames and events; nothing where its frames cannot be read."""
    frames: dict[int, dict[str, Any]] = {}
    for path in folder.clips[clip.key]:
        found = _read(path, skipped)
        if found is not None:
            frames |= {frame["number"]: frame for frame in found}
    numbers = [number for number in clip.frame_numbers() if number in frames]
    if not numbers:
        return
    header = clip.headers[-1]
    gt = [frames[number]["gt"] for number in numbers]
    head = {
        "key": clip.shown_as,
        "name": without_paths(header["name"]),
        "kind": clip.kind,
        "stage": header["stage"],
        "width": header["width"],
        "height": header["height"],
        "frame_numbers": numbers,
        "images": [frames[number]["image"] for number in numbers],
        "objects": without_paths(header["objects"]),
        "gt": None if None in gt else gt,
    }
    yield as_json(head)[:-1] + ',"events":['
    separator = ""
    for event, header in zip(clip.files, clip.headers, strict=True):
        text = _event(event, header["numbers"], numbers, skipped)
        yield separator + text if text else ""
        separator = "," if text else separator
    yield "]}"


def _event(event: EventFile, own: list[int], numbers: list[int], skipped: list[str]) -> str:
    """Return an event as it is stored, with the places of its frames where it has not all."""
    if not set(own) <= set(numbers):
        skipped.append(f"{event.path.name} shows frames that are missing: it is left out")
        return ""
    try:
        body = store.read(event.path).body
    except NotABook as error:
        skipped.append(f"{error}: it is left out")
        return ""
    except OSError:
        skipped.append(f"{event.path.name} cannot be read: it is left out")
        return ""
    if own == numbers:
        return body
    return f'{{"frames":{as_json([numbers.index(number) for number in own])},{body[1:]}'


def _read(path: Path, skipped: list[str]) -> Any:
    """Return the content of a file, None where it cannot be read."""
    try:
        return store.read(path).content()
    except NotABook as error:
        skipped.append(f"{error}: it is left out")
    except OSError:
        skipped.append(f"{path.name} cannot be read: it is left out")
    return None


def _notes(folder: Folder, clips: Sequence[ClipEvents], num_left_out: int) -> list[str]:
    """Say what is missing, and why."""
    notes = []
    for kind, count in sorted(store.read_thinned(folder.path).items()):
        notes.append(
            f"{count} {kind} events were removed: pictures/ had reached visualizations.run_book_mb"
        )
    if num_left_out:
        notes.append(f"{num_left_out} older training clips are stored, but not on this page")
    for clip in clips:
        most = max(len(header["numbers"]) for header in clip.headers)
        less = [str(head["step"]) for head in clip.headers if len(head["numbers"]) < most]
        if less:
            notes.append(
                f"{clip.headers[0]['name']}: only the frames of its sheet at step "
                f"{', '.join(less)}; the others would have exceeded visualizations.max_overhead"
            )
    return notes
