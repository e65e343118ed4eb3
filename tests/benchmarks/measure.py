"""Times functions next to each other and collects figures."""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

# Cases of `outcomes`: objects, and the side of the frames.
CASES = {"3": (3, 128), "40": (40, 128), "400": (400, 128), "40_1024px": (40, 1024)}

# Sources of which 50,000 videos are started.
MANY_VIDEOS = ("vos_folder", "sav", "coco_images")

# What is to be reached: name -> (sign, limit).
GOALS = {
    "blocked_vs_usual": ("<=", 1 / 100),
    "blocked_vs_step": ("<=", 0.04),
    "blocked_pinned_32": ("<=", 9.0),
    "stored_vs_sheet": ("<=", 1.0),
    "stored_vs_sheet_128": ("<=", 1.0),
    "wall_overhead_200": ("<=", 0.005),
    "wall_overhead_10": ("<=", 0.03),
    "sheet_speedup_vs_usual": (">=", 8.0),
    "panels_speedup_vs_supervision": (">=", 2.0),
    "growth_categories_32": ("<=", 3.0),
    "growth_frame_size_2048": ("<=", 1.2),
    "rss_growth_mb_1000": ("<=", 20.0),
    **{f"outcomes_{kind}_{case}": ("<=", 1.05) for kind in ("time", "memory") for case in CASES},
    "cuda_blocked_ms": ("<=", 1.0),
    **{f"start_again_s_{source}": ("<=", 20.0) for source in MANY_VIDEOS},
    **{f"worker_mb_over_few_{source}": ("<=", 30.0) for source in MANY_VIDEOS},
    "loading_speedup_vs_official_1024": (">=", 5.0),
    "loading_speedup_vs_official_512": (">=", 7.0),
    "loading_speedup_plain_vs_official_1024": (">=", 2.0),
    "loading_speedup_plain_vs_official_512": (">=", 2.0),
}


@dataclass
class Results:
    """Figures by name, each with all its repetitions, and remarks on what was left out."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, **figures: "float | Sequence[float]") -> None:
        """Record figures: one value, or one per repetition."""
        for name, values in figures.items():
            values = [values] if isinstance(values, (int, float)) else values
            self.figures[name] = [float(value) for value in values]

    def merge(self, other: "Results") -> None:
        """Take over another part's figures and notes."""
        self.figures |= other.figures
        self.notes += other.notes

    def summary(self) -> dict[str, dict[str, float]]:
        """Return name -> median, min and max."""
        return {
            name: {"median": median(values), "min": min(values), "max": max(values)}
            for name, values in self.figures.items()
        }

    def write(self, path: Path) -> None:
        """Write figures, notes and the machine as JSON."""
        machine = {
            "cpu_cores": os.cpu_count(),
            "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"figures": self.summary(), "notes": self.notes, "machine": machine}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def table(self) -> str:
        """Return one line per figure: median, spread, and whether the goal is reached."""
        lines = [f"{'figure':<40}{'median':>10}{'min':>10}{'max':>10}   goal"]
        for name, spread in self.summary().items():
            cells = "".join(f"{_number(spread[key]):>10}" for key in ("median", "min", "max"))
            lines.append(f"{name:<40}{cells}   {_verdict(name, spread['median'])}".rstrip())
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    digits = 4 if abs(value) < 1 else 2 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def _verdict(name: str, value: float) -> str:
    if name not in GOALS:
        return ""
    sign, limit = GOALS[name]
    reached = value <= limit if sign == "<=" else value >= limit
    return f"{sign} {limit:g} {'reached' if reached else 'MISSED'}"


def interleave(repeats: int, functions: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Time every function once per repetition, one right after the other, after one warm-up.

    Returns:
        name -> milliseconds, one per repetition: the k-th of two functions are neighbours in time.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for name in names:
        functions[name]()
    for repeat in range(repeats):
        start = repeat % len(names)  # nobody always runs behind the same other
        for name in names[start:] + names[:start]:
            started = time.perf_counter()
            functions[name]()
            times[name].append((time.perf_counter() - started) * 1e3)
    return times


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each repetition."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]
