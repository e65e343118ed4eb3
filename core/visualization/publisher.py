"""From clips to sheets and captions."""

from collections.abc import Sequence

import numpy as np

from .clip import Clip
from .drawing.sheet import mean_iou_words, render_sheet


def draw_sheets(clips: Sequence[Clip], panel_size: int) -> tuple[list[np.ndarray], list[str]]:
    """Return one sheet and one caption per clip."""
    sheets = [render_sheet(clip, panel_size=panel_size) for clip in clips]
    return sheets, [_caption(clip) for clip in clips]


def _caption(clip: Clip) -> str:
    when = f"{clip.moment.stage} · step {clip.moment.step} · " if clip.moment else ""
    return f"{when}{clip.name} · {mean_iou_words(clip)}"
