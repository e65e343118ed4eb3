"""Whether memory stays: resident growth over many events, and what may wait in the queue."""

import ctypes
import gc
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, Optional

from core.loggers import build_loggers, finish_swanlab
from core.visualization.snapshot import Moment, take_snapshot
from core.visualization.transfer import arrays_of

from ..fakes import HookedModule
from ..scenes import make_scene
from .measure import Results
from .training import default_config

WARM_UP = 100


def measure(quick: bool) -> Results:
    """Draw and log 1,000 events to a local SwanLab and read the resident size before and after."""
    results = Results()
    num_events = 10 if quick else 1000
    # Frames without grain make small files: what is looked for does not depend on their size.
    scene = make_scene(size=64 if quick else 128, noise=0.0)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        config = default_config([f"swanlab.log_dir={folder}/swanlog"])
        try:
            hooked = HookedModule(
                _say_when_drawn(build_loggers(config, Path(folder))[0]), max_overhead=1.0
            )
            _run(hooked, scene, 2 if quick else WARM_UP)
            before = resident_mb()
            _run(hooked, scene, num_events)
            after = resident_mb()
            hooked.visualizer.flush()
        finally:
            finish_swanlab(config.swanlab.finish_timeout_s)
    if before is None or after is None:
        results.notes.append("memory: no /proc and no psutil here, resident growth is left out")
    else:
        results.add(rss_growth_mb_1000=after - before)
    if hooked.visualizer.dropped:
        results.notes.append(f"memory: {hooked.visualizer.dropped} events were dropped")
    results.add(peak_queue_mb=_peak_queue_mb(64 if quick else 512))
    return results


def _say_when_drawn(logger: Any) -> Any:
    """Have a real logger tell `HookedModule.wait` that a picture and what it cost are logged."""
    logger.drawn, log_metrics = threading.Semaphore(0), logger.log_metrics

    def log_and_say(metrics: dict[str, Any], step: int) -> None:
        log_metrics(metrics, step=step)
        if "visualizations/blocked_ms" in metrics:  # pictures come this way too
            logger.drawn.release()

    logger.log_metrics = log_and_say
    return logger


def _run(hooked: HookedModule, scene: tuple, num_events: int) -> None:
    # As in training, one thread draws all of them: malloc keeps some 25 MB for each that allocates.
    for _ in range(num_events):
        hooked.next_event(scene)
        hooked.wait()


def resident_mb() -> Optional[float]:
    """Return the resident size without what malloc keeps for later.

    Each event frees some 16 MB of buffers; whether malloc gives them back at once or keeps them
    depends on what was freed before, and is no growth.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
    statm = Path("/proc/self/statm")
    if statm.exists():
        import resource

        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    try:
        import psutil
    except ImportError:
        return None
    return psutil.Process().memory_info().rss / 2**20


def _peak_queue_mb(size: int) -> float:
    """Return what is held when a logger takes nothing: one in its hands and all that may wait."""
    batch, outs_per_frame = make_scene(size=size)
    blocker = _BlockingLogger()
    hooked = HookedModule(blocker, max_overhead=1.0)
    for _ in range(8):
        hooked.next_event((batch, outs_per_frame))
        blocker.entered.wait(10)
    held = 8 - hooked.visualizer.dropped
    blocker.release.set()
    hooked.visualizer.flush()
    snapshot = take_snapshot(batch, outs_per_frame, Moment("train", 0))
    size_b = sum(array.nbytes for array in arrays_of(snapshot.reduced))
    return held * size_b / 2**20


class _BlockingLogger:
    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()

    def log_image(self, key: str, images: list, step: int, caption: list[str]) -> None:
        self.entered.set()
        self.release.wait(30)

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        pass
