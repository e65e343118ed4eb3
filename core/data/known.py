"""What is asked of a reader's videos before clips are cut from them, each thing once."""

from dataclasses import dataclass, field
from typing import Optional

from .readers.label_maps import ids_present
from .readers.reader import Reader
from .readers.remarks import Remark


@dataclass(slots=True)
class Facts:
    """What is known of a video.

    Attributes:
        num_frames: Its annotated frames.
        has_object: {position among them: whether the frame has an object}, of those looked at.
        remarks: On the files of its first frame; None: they were not looked at.
    """

    num_frames: int
    has_object: dict[int, bool] = field(default_factory=dict)
    remarks: Optional[tuple[Remark, ...]] = None


class KnownVideos:
    """A reader's videos and what is known of them; files are read where something is not.

    Args:
        reader: The videos.
    """

    def __init__(self, reader: Reader) -> None:
        """See the class."""
        self.reader = reader
        self._facts: dict[int, Facts] = {}

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
        return flags[position]

    def remarks(self, i: int) -> tuple[Remark, ...]:
        """Return the remarks on the files of the first frame of video `i`, and check its size."""
        facts = self._of(i)
        if facts.remarks is None:
            first = self.reader.video(i).frames[0]
            # the header is compared with the mask's before the sampler ever sees the video
            self.reader.size(first)
            facts.remarks = tuple(self.reader.remarks(i, first))
        return facts.remarks

    def _of(self, i: int) -> Facts:
        facts = self._facts.get(i)
        if facts is None:
            facts = self._facts[i] = Facts(len(self.reader.video(i).frames))
        return facts
