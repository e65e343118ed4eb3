"""What two weights gain and lose against each other, object by object."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .pictures import Change, Tracked, draw_changes
from .tables import table, write_text

_NUM_SHOWN = 6


def compare(
    one: dict[str, Tracked], other: dict[str, Tracked], out: Path, other_name: str
) -> dict[str, Any]:
    """Write ``compare.csv`` and a sheet of the worst changes; return what the summary says.

    Args:
        one: The videos by name, as the weights evaluated track them.
        other: The same of the weights that they are compared with.
        out: The folder to write to.
        other_name: What the other weights are called.
    """
    changes = _changes(one, other)
    lines = [
        [
            change.video,
            change.object_id,
            one[change.video].name_of(change.object_id),
            *(f"{value:.6f}" for value in (change.one, change.other, change.gain)),
        ]
        for change in changes
    ]
    columns = ("video", "object", "name", "J&F", "J&F_compared", "gain")
    write_text(out / "compare.csv", table(columns, lines))
    changed = [change for change in changes if change.gain]
    if changed:
        (out / "sheets").mkdir(exist_ok=True)
        worst = sorted(changed, key=lambda change: change.gain)[:_NUM_SHOWN]
        draw_changes(worst, one, other).save(out / "sheets" / "changes.png")
    gains = [change.gain for change in changes]
    return {
        "with": other_name,
        "objects": len(changes),
        "J&F": float(np.mean([change.one for change in changes])) if changes else None,
        "J&F_compared": float(np.mean([change.other for change in changes])) if changes else None,
        "gain": float(np.mean(gains)) if gains else None,
        "better": sum(gain > 0 for gain in gains),
        "worse": sum(gain < 0 for gain in gains),
    }


def _changes(one: dict[str, Tracked], other: dict[str, Tracked]) -> Sequence[Change]:
    changes = []
    for name in (name for name in one if name in other):
        known = {score.object_id: score for score in other[name].objects}
        for score in one[name].objects:
            if score.object_id in known and score.first is not None:
                compared = known[score.object_id]
                means = ((score.j + score.f) / 2, (compared.j + compared.f) / 2)
                changes.append(Change(name, score.object_id, *means))
    return changes
