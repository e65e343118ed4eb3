"""Whole training with pictures against without.

One run of Lightning's `fit`: the `tiny` model at the default settings on synthetic clips, logging
to a real local SwanLab, with validation and checkpoints left out. The run is cut into blocks of 10
steps, and visualisation is switched on for every second one, so that each block with pictures has a
neighbour in time without. Both blocks of a pair train on the same clips, and which comes first
alternates: slow drifts of the machine and of the training cancel out.

A block with pictures takes its one event at its first step, which leaves the following nine to the
work in the background; whatever is not drawn by the end of the block is waited for before the clock
is read, so that nothing is handed on to the block without. A pair's ratio is therefore exactly the
cost at ``every_n_steps=10``. At 50 and 200 the same event is followed by 40 and 190 more steps in
which nothing happens but a hook that returns at once (`hook_not_due_us`, microseconds against steps
of hundreds of milliseconds), so the same difference is divided by that many more steps. Measured
directly the difference would drown: 0.1 % of a minute is less than a machine wanders in one.

CPU time is that of the whole process, all threads, background work included.
"""

import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch.callbacks import LearningRateMonitor
from torch.utils.data import DataLoader, Sampler

from core.config import Config, register_schema, to_config
from core.data import VideoDataModule
from core.loggers import build_loggers, finish_swanlab
from core.trainer import SAM2LightningModule
from core.visualization import visualizer_of

from .measure import Results, ratios

CONFIGS = Path(__file__).parents[2] / "configs"
BLOCK = 10  # steps
QUICK = ["model.image_size=64", "data.num_frames=2", "data.batch_size=1"]


def default_config(overrides: list[str]) -> Config:
    """Compose ``configs/`` with overrides, as ``train.py`` does."""
    register_schema()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        return to_config(compose("config", overrides))


class _PairedClips(Sampler):
    """Every block's clips twice: fresh ones for each pair of blocks."""

    def __init__(self, num_clips: int, per_block: int) -> None:
        self._num_clips, self._per_block = num_clips, per_block

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for pair in range(10**6):
            clips = [(pair, index % self._num_clips) for index in range(self._per_block)]
            yield from clips + clips


class _PairedData(VideoDataModule):
    block = BLOCK

    def train_dataloader(self) -> DataLoader:
        loader = super().train_dataloader()
        return DataLoader(
            loader.dataset,
            self.data.batch_size,
            sampler=_PairedClips(len(loader.dataset), self.block * self.data.batch_size),
            collate_fn=loader.collate_fn,
            num_workers=self.data.num_workers,
        )


class _Blocks(pl.Callback):
    """Switches visualisation per block and reads the clocks between blocks.

    Attributes:
        blocks: (with pictures, wall seconds, CPU seconds) of each block.
    """

    def __init__(self, block: int, limit_s: float, max_pairs: int) -> None:
        self.blocks: list[tuple[bool, float, float]] = []
        self._block, self._limit_s, self._max_pairs = block, limit_s, max_pairs
        self._started = self._at = (0.0, 0.0)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self._block:
            return
        section = module.config.visualizations
        visualizer = visualizer_of(module)
        if visualizer is not None:
            visualizer.flush()
        now = (time.perf_counter(), time.process_time())
        done = trainer.global_step // self._block - 1  # the block before the first warms up
        if done == 0:
            self._started = now
        elif done > 0:
            self.blocks.append((section.enabled, now[0] - self._at[0], now[1] - self._at[1]))
        pairs, half = divmod(max(done, 0), 2)
        section.enabled = done < 0 or half != pairs % 2
        if half == 0 and done > 0 and self._is_over(pairs, now[0]):
            trainer.should_stop = True
            section.enabled = False
        self._at = (time.perf_counter(), time.process_time())

    def _is_over(self, pairs: int, now: float) -> bool:
        return pairs >= self._max_pairs or (pairs >= 4 and now - self._started[0] > self._limit_s)


def measure(quick: bool) -> Results:
    """Train for minutes and compare blocks of steps with pictures and without."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # An odd number of steps would let the pairs slip: a block before the first warms everything up.
    block = 2 if quick else BLOCK
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        config = default_config(
            [
                f"swanlab.log_dir={folder}/swanlog",
                f"visualizations.every_n_steps={block}",
                "trainer.max_steps=1000000",
                "trainer.enable_progress_bar=false",
                *(QUICK if quick else []),
            ]
        )
        blocks, dropped = _fit(config, Path(folder), block, quick)
    on = [(wall, cpu) for enabled, wall, cpu in blocks if enabled]
    off = [(wall, cpu) for enabled, wall, cpu in blocks if not enabled]
    results = Results()
    for clock, name in enumerate(("wall", "cpu")):
        quotients = ratios([item[clock] for item in on], [item[clock] for item in off])
        for every in (10, 50, 200):
            results.figures[f"{name}_overhead_{every}"] = [
                (quotient - 1) * BLOCK / every for quotient in quotients
            ]
    results.add(train_step_ms=[item[0] / block * 1e3 for item in off])
    results.notes.append(f"training: {len(on)} pairs of blocks of {block} steps")
    if dropped:
        results.notes.append(f"training: {dropped} events were dropped")
    return results


def _fit(
    config: Config, folder: Path, block: int, quick: bool
) -> tuple[list[tuple[bool, float, float]], int]:
    torch.manual_seed(config.seed)
    data = _PairedData(config.data, config.model.image_size, config.seed)
    data.block = block
    module = SAM2LightningModule(config)
    # The first block warms up with pictures.
    config.visualizations.enabled = True
    timer = _Blocks(block, limit_s=200.0, max_pairs=1 if quick else math.inf)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(
                max_steps=config.trainer.max_steps,
                accelerator="cpu",
                gradient_clip_val=config.trainer.gradient_clip_val,
                log_every_n_steps=config.trainer.log_every_n_steps,
                limit_val_batches=0,
                logger=build_loggers(config, folder),
                callbacks=[LearningRateMonitor("step"), timer],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder,
                use_distributed_sampler=False,
            )
            trainer.fit(module, data)
    finally:
        finish_swanlab(config.swanlab.finish_timeout_s)
    visualizer = visualizer_of(module)
    assert visualizer is not None, "no picture was due"
    return timer.blocks, visualizer.dropped
