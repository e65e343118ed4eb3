"""What became of the objects of a validation, as a run book stores it and its page shows it."""

from collections.abc import Sequence
from typing import Any

from ..metrics.outcomes import OUTCOMES, AtDistance, Findings, Strip, shares
from .drawing.strips import DARK_CELLS, FAMILIES, LETTERS, in_order
from .store import rounded

# A strip is some hundred bytes; those of the objects that fail last are left out.
MAX_STRIPS = 1000


def outcomes_record(findings: Findings) -> dict[str, Any]:
    """Return strips in the order in which the picture draws them, and IoU by distance."""
    scored = in_order(findings.strips)
    found = shares([strip.track for strip in scored])
    return {
        "families": [
            {
                "name": family,
                "color": "#{:02x}{:02x}{:02x}".format(*color),
                "outcomes": [
                    {
                        "name": name.replace("_", " "),
                        "letter": LETTERS[name],
                        "light": name in DARK_CELLS,
                        "share": rounded(found[name]) if name in found else None,
                    }
                    for name in names
                ],
            }
            for family, color, names in FAMILIES
        ],
        "strips": [_strip(strip) for strip in scored[:MAX_STRIPS]],
        "left_out": max(len(scored) - MAX_STRIPS, 0),
        "unscored": len(findings.strips) - len(scored),
        "now": _curve(findings.by_distance),
        "before": _curve(findings.before or []),
        "copied": _curve(findings.copied),
    }


def _strip(strip: Strip) -> dict[str, Any]:
    track = strip.track
    return {
        "video": strip.video,
        "object": str(strip.object_id),
        "name": strip.name or None,
        "letters": "".join(LETTERS[OUTCOMES[code]] for code in track.outcomes),
        "frames": track.frames.tolist(),
    }


def _curve(points: Sequence[AtDistance]) -> list[list[Any]]:
    """Return distance, lower quartile, median and upper quartile of each point."""
    return [
        [point.distance, rounded(point.lower), rounded(point.median), rounded(point.upper)]
        for point in points
    ]
