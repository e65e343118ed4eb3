"""What the training thread pays per event.

One repetition is one training step of the `tiny` model at the default settings, two more with an
event by the real hook where `training_step` has it, between loss and backward, and one event drawn
the usual way, right after each other. The worker is idle when an event comes, as it is at every 200
steps; what its work costs training is measured in `training`.
"""

import tempfile
import time
from collections.abc import Callable
from typing import Any, Optional

import torch

from core.data import VideoDataModule
from core.trainer import CORE_LOSS, SAM2LightningModule
from core.visualization.snapshot import Moment, SnapshotOptions, take_snapshot

from ..fakes import DiscardingLogger, HookedModule
from ..scenes import make_scene
from .measure import Results, interleave, ratios
from .training import QUICK, default_config
from .usual import draw_the_usual_way


def measure(quick: bool) -> Results:
    """Time events of 4 frames and 3 objects at 512 px against a step and the usual way."""
    batch, outs_per_frame = make_scene(size=64 if quick else 512)
    usual_clip = take_snapshot(
        batch, outs_per_frame, Moment("train", 0), SnapshotOptions(panel_size=1024)
    ).clips()[0]
    hooked = HookedModule(DiscardingLogger(), max_overhead=1.0, run_book=False)
    train_step, own_batch = _make_step(quick)
    blocked_ms: dict[str, list[float]] = {"event": [], "event_of_the_step": [], "pinned": []}
    run_dir = tempfile.TemporaryDirectory()
    pinned_scene = make_scene(num_frames=32, size=64 if quick else 512)
    pinning = HookedModule(DiscardingLogger(), max_overhead=1.0, run_dir=run_dir.name)

    def event(name: str, batch: Any, outs: list[dict[str, Any]]) -> None:
        started = time.perf_counter()
        hooked.next_event((batch, outs))
        blocked_ms[name].append((time.perf_counter() - started) * 1e3)
        hooked.wait()

    def pinned() -> None:
        started = time.perf_counter()
        pinning.event(pinning.trainer.global_step + 1, pinned_scene, "val")
        blocked_ms["pinned"].append((time.perf_counter() - started) * 1e3)
        pinning.wait()
        pinning.visualizer.flush()

    times = interleave(
        1 if quick else 15,
        {
            "step": train_step,
            "event": lambda: train_step(lambda own: event("event", batch, outs_per_frame)),
            "event_of_the_step": lambda: train_step(
                lambda own: event("event_of_the_step", own_batch, own)
            ),
            "usual": lambda: draw_the_usual_way(usual_clip, 2 if quick else 10),
            "pinned": lambda: train_step(lambda own: pinned()),
        },
    )
    blocked = blocked_ms["event"][1:]  # the first one warms up
    blocked_own = blocked_ms["event_of_the_step"][1:]
    results = Results()
    results.add(
        blocked_vs_usual=ratios(blocked, times["usual"]),
        blocked_vs_step=ratios(blocked, times["step"]),
        blocked_own_batch_vs_step=ratios(blocked_own, times["step"]),
        blocked_ms=blocked,
        blocked_own_batch_ms=blocked_own,
        blocked_pinned_32_ms=blocked_ms["pinned"][1:],
        blocked_pinned_32=ratios(blocked_ms["pinned"][1:], blocked),
        step_ms=times["step"],
        usual_ms=times["usual"],
        hook_not_due_us=_not_due_us(batch, outs_per_frame),
    )
    pinning.visualizer.flush()
    run_dir.cleanup()
    if hooked.visualizer.dropped:
        results.notes.append(f"blocked: {hooked.visualizer.dropped} events were dropped")
    return results


def _make_step(quick: bool) -> tuple[Callable[..., None], Any]:
    """Return a training step (forward, loss, what is given, backward, update) and its batch."""
    config = default_config(QUICK if quick else [])
    torch.manual_seed(0)
    module = SAM2LightningModule(config)
    data = VideoDataModule(config.data, config.model.image_size, config.seed)
    batch = next(iter(data.train_dataloader()))
    data.normalise(batch)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    module.train()

    def step(before_backward: Optional[Callable[[list[dict[str, Any]]], None]] = None) -> None:
        outs_per_frame = module(batch)
        optimizer.zero_grad()
        loss = module.loss(outs_per_frame, batch.masks)[CORE_LOSS]
        if before_backward is not None:
            before_backward(outs_per_frame)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    return step, batch


def _not_due_us(batch: Any, outs_per_frame: list[dict[str, Any]]) -> list[float]:
    hooked = HookedModule(DiscardingLogger(), max_overhead=1.0)
    hooked.config.visualizations.every_n_steps = 10**9
    hooked.trainer.global_step = 1
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(100):
            hooked.maybe_log_visualizations(batch, outs_per_frame, 0, "train")
        times.append((time.perf_counter() - started) * 1e4)
    return times
