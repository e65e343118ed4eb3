"""Time from files to a normalised batch, against Meta's own pipeline, on one core.

The official pipeline needs torchvision, which does not go with the torch of training: it runs in an
environment of its own, which `make bench` makes. Its clips and ours are read in turns.
"""

import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from PIL import Image

from .measure import Results, interleave, ratios

PYTHON = Path(".venv-loading/bin/python")
SIDES = (1024, 512)
_NUM_FRAMES, _NUM_OBJECTS = 8, 6
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# of official MOSE fine-tuning
_AUGMENTATION = {
    "degrees": 25,
    "shear": 20,
    "brightness": 0.1,
    "contrast": 0.03,
    "saturation": 0.03,
    "grayscale": 0.05,
    "jitter_per_frame": True,
}


def measure(quick: bool) -> Results:
    """Return how many times faster than the official pipeline clips are loaded."""
    results = Results()
    python = PYTHON.absolute()
    if not python.is_file():
        results.notes.append(f"loading is left out: {PYTHON} is missing, which `make bench` makes")
        return results
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        write_videos(Path(folder), (96, 54) if quick else (1920, 1080))
        command = [str(python), "-m", "tests.benchmarks.loading", folder, *(["quick"] * quick)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        results.notes.append(f"loading is left out: {last}")
        return results
    results.add(**json.loads(done.stdout.splitlines()[-1]))
    return results


def write_videos(folder: Path, size: tuple[int, int]) -> None:
    """Write two videos of smooth, noisy frames with six objects as palette PNGs."""
    rng = np.random.default_rng(0)
    width, height = size
    for name in ("a", "b"):
        frames, masks = folder / "JPEGImages" / name, folder / "Annotations" / name
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        coarse = rng.integers(0, 256, (68, 120, 3), np.uint8)
        still = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        still = np.clip(still + rng.normal(0, 12, still.shape), 0, 255).astype(np.uint8)
        for t in range(_NUM_FRAMES + 2):
            image = np.ascontiguousarray(np.roll(still, 3 * t, 1))
            labels = np.zeros((height, width), np.uint8)
            for key in range(1, _NUM_OBJECTS + 1):
                centre = width * (2 * key - 1) // 13 + 6 * t, height * (2 + key) // 10
                axes = width // 16, height // 12
                cv2.ellipse(labels, centre, axes, 10 * key, 0, 360, key, -1)
                colour = 40 * key, 255 - 40 * key, 128
                cv2.ellipse(image, centre, axes, 10 * key, 0, 360, colour, -1)
            Image.fromarray(image).save(frames / f"{t:05d}.jpg", quality=90)
            mask = Image.fromarray(labels).convert("P")
            mask.save(masks / f"{t:05d}.png")


def _declare_operators() -> None:
    """Declare what torchvision's compiled part would: there is none for torch on CPUs alone."""
    library = torch.library.Library("torchvision", "DEF")
    for _ in range(50):
        try:
            import torchvision.transforms.v2.functional  # noqa: F401

            return
        except RuntimeError as error:
            operator = str(error).partition("operator torchvision::")[2].partition(" ")[0]
            if not operator:
                raise
            library.define(f"{operator}(Tensor a) -> Tensor")
            for name in [name for name in sys.modules if name.startswith("torchvision")]:
                del sys.modules[name]


def _official(folder: str, side: int, augmented: bool) -> Callable[[], object]:
    """Return what reads the official pipeline's next batch."""
    from training.dataset import transforms as official
    from training.dataset.vos_dataset import VOSDataset
    from training.dataset.vos_raw_dataset import PNGRawDataset
    from training.dataset.vos_sampler import RandomUniformSampler
    from training.utils.data_utils import collate_fn

    def affine() -> object:
        return official.RandomAffine(25, True, shear=20, image_interpolation="bilinear")

    def jitter(consistent: bool, contrast: float) -> object:
        return official.ColorJitter(consistent, 0.1, contrast, contrast, None)

    steps = [
        official.RandomHorizontalFlip(True),
        *([affine()] if augmented else []),
        official.RandomResizeAPI(side, square=True, consistent_transform=True),
        *(
            [jitter(True, 0.03), official.RandomGrayscale(True, 0.05), jitter(False, 0.05)]
            if augmented
            else []
        ),
        official.ToTensorAPI(),
        official.NormalizeAPI(_MEAN, _STD),
    ]
    files = PNGRawDataset(f"{folder}/JPEGImages", f"{folder}/Annotations")
    sampler = RandomUniformSampler(_NUM_FRAMES, 3)
    clips = VOSDataset([official.ComposeAPI(steps)], True, files, sampler, 1)
    count = itertools.count()
    return lambda: collate_fn([clips[next(count) % 2]], dict_key="all")


def _ours(folder: str, side: int, augmented: bool) -> tuple[Callable[[], object], list[float]]:
    """Return what reads our next batch, and the seconds that it took without normalisation."""
    from training.utils.data_utils import collate_fn

    from core.config import AugmentationConfig, DataConfig
    from core.data import VideoDataModule

    augmentation = AugmentationConfig(**(_AUGMENTATION if augmented else {}))
    data = DataConfig(
        source="vos_folder", root=folder, num_frames=_NUM_FRAMES, val_fraction=0.5,
        clips_per_video=1000, augmentation=augmentation,
    )  # fmt: skip
    module = VideoDataModule(data, side, seed=0)
    module.setup()
    clips, count, milliseconds = module.datasets["train"], itertools.count(), []

    def read() -> object:
        started = time.perf_counter()
        batch = collate_fn([clips[(0, next(count))]], dict_key="all")
        milliseconds.append((time.perf_counter() - started) * 1e3)
        module.normalise(batch)
        assert batch.img_batch.is_floating_point()
        return batch

    return read, milliseconds


def _main(folder: str, quick: bool) -> None:
    """Print the figures as one line of JSON."""
    _declare_operators()
    from core.official import import_sam2

    import_sam2()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    random.seed(0)
    figures = {}
    for side in (64,) if quick else SIDES:
        for kind, augmented in (("", True), ("plain_", False)):
            ours, bare = _ours(folder, side, augmented)
            functions = {"official": _official(folder, side, augmented), "ours": ours}
            times = interleave(1 if quick else 5, functions)
            speedups = ratios(times["official"], times["ours"])
            figures[f"loading_speedup_{kind}vs_official_{side}"] = speedups
            figures[f"loading_{kind}ms_{side}"] = times["ours"]
            figures[f"loading_{kind}ms_{side}_bytes"] = [median(bare[1:])]
    print(json.dumps(figures))


if __name__ == "__main__":
    _main(sys.argv[1], "quick" in sys.argv[2:])
