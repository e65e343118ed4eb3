"""What ``core.evaluate`` costs beside a bare loop over Meta's predictor, and what memory it takes.

No part of ``make bench``, which would take minutes longer::

    python -m tests.benchmarks.tracking pace [FRAMES [REPETITIONS]]
    python -m tests.benchmarks.tracking memory [FRAMES]
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from core.config import ModelConfig
from core.evaluate.pictures import write_film
from core.evaluate.program import evaluate
from core.evaluate.scores import VideoScores
from core.evaluate.settings import EvaluateConfig
from core.export import export_weights
from core.model.build import build_model
from core.official import import_sam2
from core.tracking.film import Film, overlay
from core.tracking.masks import write_masks
from core.tracking.prompts import Prompt
from core.tracking.tracker import track
from core.tracking.weights import Weights, build_predictor

from ..videos import Disc, draw, write_vos
from .memory import resident_mb

SIZE = (480, 854)


def pace(num_frames: int, repetitions: int) -> None:
    """Print seconds per frame of both, measured in turn: ``sam2.1_hiera_tiny`` with two objects."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        weights = _random_weights(folder, "sam2.1_hiera_tiny")
        predictor = build_predictor(weights, torch.device("cpu"))
        discs = [Disc(1, (200, 200), 90), Disc(2, (600, 240), 80, (-1.0, 1.2))]
        video = draw(num_frames, SIZE, discs)
        write_vos(folder, "clip", video)
        for path in (folder / "JPEGImages" / "clip").iterdir():
            with Image.open(path) as image:
                image.save(path.with_suffix(".jpg"), quality=95)
            path.unlink()
        config = EvaluateConfig(model=weights.model)
        config.data.source, config.data.root = "vos_folder", root
        config.trainer.accelerator = "cpu"

        @torch.inference_mode()
        def bare() -> None:
            state = predictor.init_state(video_path=str(folder / "JPEGImages" / "clip"))
            for disc in discs:
                mask = video.masks(disc.object_id)[0]
                predictor.add_new_mask(state, 0, disc.object_id, mask)
            for _, _, logits in predictor.propagate_in_video(state):
                (logits > 0).numpy()

        def whole() -> None:
            with tempfile.TemporaryDirectory() as out:
                result = evaluate(config, weights, Path(out))
                assert not write_film(result.tracked["clip"], Path(out) / "clip.mp4")

        found: dict[str, list[tuple[float, float]]] = {"bare loop": [], "core.evaluate": []}
        with patch("core.evaluate.program.build_predictor", lambda *_: predictor):
            for _ in range(repetitions):
                for name, run in zip(found, (bare, whole), strict=True):
                    found[name].append(_seconds(run))
                    wall, cpu = (seconds / num_frames for seconds in found[name][-1])
                    print(f"{name}: {wall:.3f} s per frame, {cpu:.3f} of CPU", flush=True)
        for kind, unit in enumerate(("of wall time", "of CPU")):
            one, other = (median(pair[kind] for pair in each) for each in found.values())
            print(
                f"{unit}: bare loop {one / num_frames:.3f} s per frame, core.evaluate"
                f" {other / num_frames:.3f}, {other / one - 1:+.1%}",
                flush=True,
            )


def _seconds(run: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def memory(num_frames: int) -> None:
    """Print what is resident above the model while ``tiny`` tracks five objects at 512 px.

    The process is that of evaluation: masks and scores of every frame, and a film.
    """
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        predictor = build_predictor(_random_weights(folder, "tiny"), torch.device("cpu"))
        before = resident_mb()
        assert before is not None, "neither /proc nor psutil is here"
        frames = _Generated(num_frames)
        masks = {key: frames.mask(key) for key in range(1, 6)}
        prompts = [Prompt(0, key, mask=mask) for key, mask in masks.items()]
        scores = VideoScores.empty(num_frames, list(masks), [""] * 5, [0] * 5)
        start = time.perf_counter()
        with Film(folder / "film.mp4") as film:
            for frame in track(predictor, frames, prompts):
                found = frame.masks(overlapping=False)
                name = frames.names[frame.index]
                write_masks(folder / "masks", name, found, list(masks), False, SIZE)
                scores.add(frame.index, frame.index, found, masks, complete=True)
                film.add(overlay(frame.image, found, {}))
                if (frame.index + 1) % 100 == 0:
                    above, pace = (
                        resident_mb() - before,
                        (time.perf_counter() - start) / (frame.index + 1),
                    )
                    print(
                        f"frame {frame.index + 1}: {above:.0f} MB above the model,"
                        f" {pace:.2f} s per frame",
                        flush=True,
                    )


class _Generated:
    """Frames of noise that are made when they are asked for."""

    def __init__(self, num_frames: int) -> None:
        self.names = [f"{t:05d}" for t in range(num_frames)]
        self.size = SIZE

    def __len__(self) -> int:
        return len(self.names)

    def image(self, i: int) -> np.ndarray:
        image = np.random.default_rng(i).integers(90, 130, (*SIZE, 3)).astype(np.uint8)
        for key in range(1, 6):
            image[np.roll(self.mask(key), i, 1)] = (40 * key, 250 - 40 * key, 128)
        return image

    def mask(self, key: int) -> np.ndarray:
        mask = np.zeros(SIZE, bool)
        mask[80 * key : 80 * key + 60, 120 * key : 120 * key + 90] = True
        return mask


def _random_weights(folder: Path, architecture: str) -> Weights:
    torch.manual_seed(3)
    config = ModelConfig(architecture=architecture, image_size=512)
    model = build_model(config)
    # otherwise no object would ever be there, and there was nothing to score
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(10)
    path = folder / "random.pt"
    export_weights(model, path, config)
    return Weights(path, config)


if __name__ == "__main__":
    import_sam2()
    name, *counts = sys.argv[1:]
    numbers = [int(count) for count in counts]
    if name == "pace":
        pace(*(numbers or [8])[:1], *(numbers[1:] or [3]))
    else:
        memory(*(numbers or [2000]))
