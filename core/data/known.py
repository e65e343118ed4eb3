"""What is asked of a reader's videos before clips are cut from them, each thing once."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from .readers.label_maps import ids_present
from .readers.reader import Reader
from .readers.remarks import Remark

# Times of files are as coarse as two seconds in places: what was written so shortly before it was
# looked at may have been written again since, at the same time by the clock.
_SETTLED_NS = 3 * 10**9
_MOST_FRAMES = 10**7  # no video has more


@dataclass(slots=True)
class Facts:
    """What is known of a video.

    Attributes:
        num_frames: Its annotated frames.
        has_object: {position among them: whether the frame has an object}, of those looked at.
        remarks: On the files of its first frame; None: they were not looked at.
        unmatched: See ``Reader.num_unmatched``; None: not asked for.
        stamp: That of the files and folders that it depends on; None: not to be kept.
    """

    num_frames: int
    has_object: dict[int, bool] = field(default_factory=dict)
    remarks: Optional[tuple[Remark, ...]] = None
    unmatched: Optional[tuple[int, int]] = None
    stamp: Optional[str] = None


class KnownVideos:
    """A reader's videos and what is known of them; files are read where something is not.

    What was kept of a video is believed as long as `Reader.depends_on` names the same files and
    folders, unchanged. A file that was rewritten in its place since is noticed when it is read.

    Args:
        reader: The videos.
        kept: {name: what `to_keep` returned of it}; not trusted.
        since: When looking began, in nanoseconds; None: nothing is to be kept.

    Attributes:
        has_news: Whether something was found out that is to be kept.
    """

    def __init__(
        self, reader: Reader, kept: Optional[Mapping[str, Any]] = None, since: Optional[int] = None
    ) -> None:
        """See the class."""
        self.reader, self.has_news = reader, False
        self._kept, self._since = dict(kept or {}), since
        self._facts: dict[int, Facts] = {}

    @property
    def has_kept(self) -> bool:
        """Whether an earlier run knew any of them, or there is nowhere to keep what is known."""
        return bool(self._kept) or self._since is None

    def num_frames(self, i: int) -> int:
        """Return how many annotated frames video `i` has.

        Raises:
            NoAnnotatedFrameError: It has none.
        """
        return self._of(i).num_frames

    def has_object(self, i: int, position: int) -> bool:
        """Return whether an annotated frame of video `i` has an object."""
        flags = self._of(i).has_object
        if position not in flags:
            frame = self.reader.video(i).frames[position]
            flags[position] = any(ids_present(self.reader.masks(i, frame)).values())
            self.has_news = True
        return flags[position]

    def remarks(self, i: int) -> tuple[Remark, ...]:
        """Return the remarks on the files of the first frame of video `i`, and check its size."""
        facts = self._of(i)
        if facts.remarks is None:
            first = self.reader.video(i).frames[0]
            # the header is compared with the mask's before the sampler ever sees the video
            self.reader.size(first)
            facts.remarks = tuple(self.reader.remarks(i, first))
            self.has_news = True
        return facts.remarks

    def num_unmatched(self, i: int) -> tuple[int, int]:
        """Return how many frames of video `i` lack a mask, and how many masks a frame."""
        facts = self._of(i)
        if facts.unmatched is None:
            facts.unmatched = self.reader.num_unmatched(i)
            self.has_news = True
        return facts.unmatched

    def unmatched_masks(self) -> dict[str, tuple[int, int]]:
        """Return {name: `num_unmatched`} of those asked for that have masks without a frame."""
        return {
            self.reader.names[i]: facts.unmatched
            for i, facts in sorted(self._facts.items())
            if facts.unmatched is not None and facts.unmatched[1]
        }

    def _of(self, i: int) -> Facts:
        facts = self._facts.get(i)
        if facts is None:
            facts = self._facts[i] = self._recall(i)
        return facts

    def _recall(self, i: int) -> Facts:
        """Return what was kept of a video if that still holds, and else begin anew."""
        stamp = None
        if self._since is not None:
            # before the video is read: what changes meanwhile is noticed the next time
            stamp, newest = stamp_of(self.reader.depends_on(i))
            facts = _believed(self._kept.get(self.reader.names[i]), stamp)
            if facts is not None:
                return facts
            if newest > self._since - _SETTLED_NS:
                stamp = None
        return Facts(len(self.reader.video(i).frames), stamp=stamp)

    def to_keep(self) -> dict[str, Any]:
        """Return {name: what is known of the video} in plain types, of videos that still exist.

        Those without an object in sight are looked at again each time.
        """
        names = self.reader.names
        kept = {name: self._kept[name] for name in names if name in self._kept}
        for i, facts in self._facts.items():
            kept.pop(names[i], None)
            remarks = self._with_stamps(facts.remarks)
            if facts.stamp is not None and any(facts.has_object.values()) and remarks is not None:
                seen, unseen = (
                    [position for position, there in facts.has_object.items() if there is flag]
                    for flag in (True, False)
                )
                unmatched = facts.unmatched
                kept[names[i]] = [facts.stamp, facts.num_frames, seen, unseen, remarks, unmatched]
        return kept

    def _with_stamps(self, remarks: Optional[tuple[Remark, ...]]) -> Optional[list[list[str]]]:
        """Return remarks with the stamps of their files; None: one was written just now."""
        if remarks is None or self._since is None:
            return None
        stamped = [(remark, *stamp_of([remark.file])) for remark in remarks]
        if any(newest > self._since - _SETTLED_NS for _, _, newest in stamped):
            return None
        return [[remark.file, remark.text, stamp] for remark, stamp, _ in stamped]


def _believed(kept: Any, stamp: str) -> Optional[Facts]:
    """Return what is kept of a video; None: nothing, or it holds no longer."""
    try:
        told, num_frames, seen, unseen, remarks, unmatched = kept
        positions = [num_frames - 1, *seen, *unseen]
        if told != stamp or num_frames > _MOST_FRAMES or not _are_positions(positions, num_frames):
            return None
        if any(stamp_of([path])[0] != known for path, _, known in remarks):
            return None
        flags = {**dict.fromkeys(seen, True), **dict.fromkeys(unseen, False)}
        found = tuple(Remark(str(path), str(text)) for path, text, _ in remarks)
        if unmatched is not None:
            without_mask, without_frame = map(int, unmatched)
            unmatched = without_mask, without_frame
    except (TypeError, ValueError):
        return None
    return Facts(num_frames, flags, found, unmatched, stamp)


def _are_positions(values: list, num_frames: int) -> bool:
    return all(type(value) is int and 0 <= value < num_frames for value in values)


def stamp_of(paths: Iterable[str]) -> tuple[str, int]:
    """Return what changes when one of some files or folders does, and when that was last.

    A folder changes when a file in it is added, removed or renamed.

    Returns:
        The stamp, and the time of the last change in nanoseconds.
    """
    told, newest = [], 0
    for path in paths:
        try:
            found = os.stat(path)  # noqa: PTH116 (a path object per file takes longer)
        except (OSError, ValueError):
            told.append(f"{path} missing")
            continue
        told.append(f"{path} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_size}")
        newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
    # names may hold what is no text
    text = "\n".join(told).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=12).hexdigest(), newest
