"""How the cost grows with categories, frames and frame size.

Categories divide the same part of the frame among them (`growth_categories`), or keep their size,
so that more of them are more to paint (`growth_objects`), or are corrected with a click each on top
of that (`growth_clicks`). Snapshot (`growth_blocked`) and drawing are timed apart: the snapshot
reads full frames, the sheet does not know how large they were.
"""

from core.visualization.drawing.sheet import render_sheet
from core.visualization.snapshot import Moment, SnapshotOptions, take_snapshot

from ..scenes import make_scene
from .measure import Results, interleave, ratios


def measure(quick: bool) -> Results:
    """Time 1 to 32 categories, 1 to 16 frames, 256 to 2048 px."""
    results = Results()
    repeats = 1 if quick else 11
    base = 64 if quick else 512

    for what, options in (
        ("categories", dict(corrected=False)),
        ("objects", dict(corrected=False, cells=6)),
        ("clicks", dict(corrected=True, cells=6)),
    ):
        scenes = {n: dict(num_objects=n, size=base, **options) for n in (1, 8, 32)}
        _grow(results, what, scenes, repeats)
    _grow(
        results,
        "frames",
        {n: dict(num_frames=n, size=64 if quick else 256) for n in (1, 4, 16)},
        repeats,
    )
    sizes = {256: 32, 512: 64, 1024: 128, 2048: 256} if quick else {n: n for n in (256, 512, 1024)}
    if not quick:
        sizes[2048] = 2048
    # Against 512 px, the size that the goal names.
    order = sorted(sizes, key=lambda n: n != 512)
    _grow(results, "frame_size", {n: dict(size=sizes[n]) for n in order}, repeats)
    return results


def _grow(results: Results, what: str, scenes: dict[int, dict], repeats: int) -> None:
    """Record drawing, and blocking, of every scene against the first."""
    draw, block = {}, {}
    for number, options in scenes.items():
        batch, outs = make_scene(**options)
        frames = options.get("num_frames", 4)

        def snapshot(batch=batch, outs=outs, frames=frames):
            return take_snapshot(
                batch, outs, Moment("train", 0), SnapshotOptions(max_frames=frames)
            )

        clip = snapshot().clips()[0]
        draw[str(number)] = lambda clip=clip: render_sheet(clip)
        block[str(number)] = snapshot
    base, *others = draw
    for kind, functions in (("growth", draw), ("growth_blocked", block)):
        times = interleave(repeats, functions)
        for number in others:
            results.figures[f"{kind}_{what}_{number}"] = ratios(times[number], times[base])
