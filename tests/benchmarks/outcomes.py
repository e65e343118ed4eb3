"""What outcomes and the doctor cost a validation: time and peak memory with them against without.

Without them a batch's metrics are what they were before there were outcomes: sums of pixels, and F.
Both ways measure the same masks, alternately; the model's forward pass over the same clip is timed
beside them. A figure is (forward + metrics with outcomes) / (forward + metrics without); the loss,
the same in both, is left out. The doctor looks at each clip here, at all of a validation once
otherwise.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from core.config import Config, ModelConfig
from core.metrics.doctor import Validation
from core.metrics.masks import boundary_f
from core.metrics.video import VideoMetrics
from core.official import received_prompt
from core.trainer import SAM2LightningModule
from tests.scenes import make_scene

from .measure import CASES, Results, interleave

NUM_FRAMES = 4
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def measure(quick: bool = False, cases: tuple[str, ...] = tuple(CASES)) -> Results:
    """Measure each case."""
    results = Results()
    for name in ("3",) if quick else cases:
        num_objects, size = CASES[name]
        _measure(results, name, num_objects, 64 if quick else size, 1 if quick else 7)
    return results


def _measure(results: Results, name: str, num_objects: int, size: int, repeats: int) -> None:
    batch, _ = make_scene(NUM_FRAMES, size, num_objects, corrected=False, noise=0)
    module = SAM2LightningModule(Config(model=ModelConfig(image_size=size, prompt_type="mask")))
    module.eval()
    found: list[Any] = []

    def forward() -> None:
        with torch.no_grad():
            found[:] = module(batch)

    started = time.perf_counter()
    forward_mb = _peak_mb(forward)
    forward_ms = (time.perf_counter() - started) * 1e3
    # Random weights predict nothing; the ground truth, moved, is what a model in training predicts.
    preds, prompted = batch.masks.roll(size // 32, -1), [received_prompt(outs) for outs in found]
    ids = batch.metadata.unique_objects_identifier[0]
    objects = (preds, batch.masks, torch.tensor(prompted), ids[:, 0], ids[:, 1])
    ways = {
        "with": lambda: _with(module, objects),
        "without": lambda: _without(*objects),
    }
    times = interleave(repeats, ways)
    pairs = list(zip(times["with"], times["without"], strict=True))
    results.add(
        **{
            f"outcomes_time_{name}": [(forward_ms + a) / (forward_ms + b) for a, b in pairs],
            f"outcomes_added_ms_{name}": [a - b for a, b in pairs],
        }
    )
    if Path("/proc/self/statm").exists():
        with_mb, without_mb = (_peak_mb(way) for way in ways.values())
        peaks = [max(forward_mb, extra) for extra in (with_mb, without_mb)]
        results.add(**{f"outcomes_memory_{name}": peaks[0] / max(peaks[1], 1)})


def _with(module: SAM2LightningModule, objects: tuple[Any, ...]) -> None:
    module.metrics.reset()
    module.metrics.update(*objects)
    module.doctor.note(Validation(1, 0.5))
    module.doctor.diagnose(module._case())


def _without(preds: torch.Tensor, gts: torch.Tensor, prompted: torch.Tensor, *ids: Any) -> None:
    VideoMetrics(boundary=False).update(preds, gts, prompted, *ids)
    for t in (~prompted).nonzero().flatten().tolist():
        for pred, gt in zip(preds[t], gts[t], strict=True):
            boundary_f(pred, gt)


def _peak_mb(task: Callable[[], None]) -> float:
    """Return how much resident memory a task adds at most."""
    before = _resident_mb()
    peak, ended = [before], threading.Event()

    def watch() -> None:
        while not ended.wait(0.001):
            peak[0] = max(peak[0], _resident_mb())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        task()
    finally:
        ended.set()
        watcher.join()
    return max(peak[0], _resident_mb()) - before


def _resident_mb() -> float:
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20
    return 0.0
