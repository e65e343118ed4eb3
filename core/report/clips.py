"""Which clips a run has stored, with the events of each."""

from dataclasses import dataclass, field
from typing import Any

from ..visualization import store
from ..visualization.cadence import TRAIN
from ..visualization.record import PINNED, PROMPTS, VAL, WORST
from ..visualization.store import EventFile, Folder, NotABook

# Then whatever else a module calls its stages, training last.
_ORDER = (PINNED, VAL, WORST, PROMPTS)


@dataclass
class ClipEvents:
    """One clip and its events, in the order of their steps, no two of one step.

    Attributes:
        key: Its name among the stored ones.
        files: Of its events.
        headers: Of these files.
        shown_as: Its name on the page, where runs that have the same clip call it the same.
    """

    key: str
    files: list[EventFile] = field(default_factory=list)
    headers: list[dict[str, Any]] = field(default_factory=list)
    shown_as: str = ""

    def __post_init__(self) -> None:
        """Show a clip under its own key, unless somebody knows better."""
        self.shown_as = self.shown_as or self.key

    @property
    def kind(self) -> str:
        """What kind of clip it is; of several kinds the first."""
        return min((header["kind"] for header in self.headers), key=_rank)

    def add(self, event: EventFile, header: dict[str, Any]) -> None:
        """Add an event of the same step as the last one or a later one."""
        if self.files and self.files[-1].step == event.step:
            if self.files[-1].start == event.start:
                return  # drawn for two reasons, or validated twice
            self.files.pop()
            self.headers.pop()
        self.files.append(event)
        self.headers.append(header)

    def frame_numbers(self) -> list[int]:
        """Return the numbers of all frames that any of its events shows."""
        lists: list[list[int]] = [header["numbers"] for header in self.headers]
        longest: list[int] = max(lists, key=len)
        numbers = list(longest)
        for own in lists:
            numbers += [number for number in own if number not in numbers]
        return numbers


def clips_of(folder: Folder, skipped: list[str]) -> list[ClipEvents]:
    """Return the clips of which events are stored, in the order to offer them.

    Args:
        folder: What a run stored.
        skipped: What cannot be read is added, in one sentence each.
    """
    clips: dict[str, ClipEvents] = {}
    for event in folder.events:
        try:
            header = store.read(event.path, header_only=True).header
            if header["key"] not in folder.clips:
                raise NotABook(f"{event.path.name} is of a clip whose frames are missing")
            clips.setdefault(header["key"], ClipEvents(header["key"])).add(event, header)
        except NotABook as error:
            skipped.append(f"{error}: it is left out")
        except (OSError, KeyError):
            skipped.append(f"{event.path.name} cannot be read: it is left out")
    return sorted(clips.values(), key=_place)


def _place(clip: ClipEvents) -> tuple[int, int, int]:
    """Return what clips are ordered by: their kind, then the first ones drawn, or the last ones."""
    kind, first, last = clip.kind, clip.files[0], clip.files[-1]
    if kind in (PINNED, VAL):
        return _rank(kind), first.start, first.number
    return _rank(kind), -last.step, last.number


def _rank(kind: str) -> int:
    if kind == TRAIN:
        return len(_ORDER) + 1
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
