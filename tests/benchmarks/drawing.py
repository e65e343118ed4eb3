"""What the worker pays per event, against other ways to draw the same.

The sheet (drawn and encoded) is compared with the usual way at each one's own default size, and at
the same panel size too (`sheet_512_speedup_vs_usual`). Panels alone, without text and encoding, are
drawn by everyone from the same frames and masks at the same size, peers included.
"""

import itertools
import tempfile
from pathlib import Path

from core.visualization.book import RunBook
from core.visualization.cadence import TRAIN
from core.visualization.clip import Clip
from core.visualization.drawing.sheet import _paint_panels, render_sheet
from core.visualization.images import encode_png
from core.visualization.record import PINNED
from core.visualization.snapshot import Moment, SnapshotOptions, take_snapshot

from ..scenes import make_scene
from .measure import Results, interleave, ratios
from .usual import draw_the_usual_way, peers


def measure(quick: bool) -> Results:
    """Time sheets and panels of 4 frames and 3 objects at 512 px."""
    scene = make_scene(size=64 if quick else 512)

    def clip_at(panel_size: int) -> Clip:
        options = SnapshotOptions(panel_size=panel_size)
        return take_snapshot(*scene, Moment("train", 0), options).clips()[0]

    small, full = clip_at(256), clip_at(512)
    results = Results()
    times = interleave(
        1 if quick else 9,
        {
            "usual": lambda: draw_the_usual_way(full, 2 if quick else 10),
            "sheet": lambda: encode_png(render_sheet(small)),
            "sheet_512": lambda: encode_png(render_sheet(full, panel_size=512)),
            "draw": lambda: render_sheet(small),
        },
    )
    results.add(
        sheet_speedup_vs_usual=ratios(times["usual"], times["sheet"]),
        sheet_512_speedup_vs_usual=ratios(times["usual"], times["sheet_512"]),
        sheet_ms=times["sheet"],
        sheet_draw_ms=times["draw"],
    )
    results.merge(_storing(scene, small, quick))
    drawers, notes = peers()
    results.notes += notes
    panels = _panels(full)
    functions = {
        "ours": lambda: _panels(full),
        "copy": lambda: [panel.copy() for panel in panels],
    } | {name: (lambda draw=draw: draw(full)) for name, draw in drawers.items()}
    times = interleave(1 if quick else 15, functions)
    for name in drawers:
        results.figures[f"panels_speedup_vs_{name}"] = ratios(times[name], times["ours"])
    results.add(panels_vs_copy=ratios(times["ours"], times["copy"]), panels_ms=times["ours"])
    return results


def _storing(scene: tuple, drawn: Clip, quick: bool) -> Results:
    """Time what the run book keeps of a clip against its sheet, and of a pinned one of 32 frames.

    The clip is one of training, the dearest of its size: its frames are stored with it each time.
    `stored_vs_sheet` is that of 512 px, `stored_vs_sheet_128` that of the default run's frames.
    """
    long_scene = make_scene(num_frames=32, size=64 if quick else 512)
    little_scene = make_scene(size=128)
    steps = itertools.count()

    def clip_of(scene: tuple, kept_frames: int = 0) -> Clip:
        options = SnapshotOptions(panel_size=drawn_size, kept_frames=kept_frames)
        return take_snapshot(*scene, Moment("val", next(steps)), options).clips()[0]

    drawn_size = max(drawn.images.shape[1:3])
    with tempfile.TemporaryDirectory() as run_dir:
        book = RunBook(Path(run_dir), write_page=lambda run_dir: None)
        clip, little, long = clip_of(scene), clip_of(little_scene), clip_of(long_scene, 32)

        def store(clip: Clip, kind: str = TRAIN) -> None:
            clip.moment = Moment("val" if kind == PINNED else kind, next(steps))
            book.add(clip, kind)

        times = interleave(
            1 if quick else 9,
            {
                "sheet": lambda: encode_png(render_sheet(drawn)),
                "stored": lambda: store(clip),
                "sheet_128": lambda: encode_png(render_sheet(little)),
                "stored_128": lambda: store(little),
                "stored_32": lambda: store(long, PINNED),
            },
        )
    results = Results()
    results.add(
        stored_vs_sheet=ratios(times["stored"], times["sheet"]),
        stored_vs_sheet_128=ratios(times["stored_128"], times["sheet_128"]),
        stored_ms=times["stored"],
        stored_32_ms=times["stored_32"],
    )
    return results


def _panels(clip: Clip) -> list:
    return [panel for index in range(len(clip.images)) for panel in _paint_panels(clip, index)]
