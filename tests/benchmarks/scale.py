"""How a data set of 50,000 videos starts, and what a worker of its loader holds for itself.

The files are hard links to a few small ones. Each number is measured in a process of its own.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_coding

from .measure import Results

_MANY, _FEW = 50_000, 500
_NUM_FRAMES, _NUM_READ = 4, 200
_SIZE = 96, 54
_MOST_LINKS = 50_000  # ext4 allows 65,000 of one file


def measure(quick: bool) -> Results:
    """Return seconds of a first and a second start, and a worker's private MB beside few videos."""
    results = Results()
    if not Path("/proc/self/smaps_rollup").exists():
        results.notes.append("scale is left out: this system does not tell what processes share")
        return results
    many, few = (20, 4) if quick else (_MANY, _FEW)
    for source, write in WRITERS.items():
        told = {}
        for count in (few, many):
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder), count)
                # times of files are as coarse as seconds: what is younger would not be believed
                time.sleep(0 if quick else 4)
                told[count] = [(_figures if quick else _run)(source, folder) for _ in range(2)]
        (first, again), few_again = told[many], told[few][1]
        results.add(
            **{
                f"start_first_s_{source}": first["start_s"],
                f"start_again_s_{source}": again["start_s"],
                f"worker_mb_{source}": again["worker_mb"],
                f"worker_mb_over_few_{source}": again["worker_mb"] - few_again["worker_mb"],
            }
        )
    return results


def _run(source: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.scale", source, folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


class _Links:
    """Files of the same content: one in so many is written, the others are links to it."""

    def __init__(self, write: Callable[[Path], object]) -> None:
        self._write, self._count = write, 0
        self._original = ""

    def put(self, path: str) -> None:
        if self._count % _MOST_LINKS == 0:
            self._write(Path(path))
            self._original = path
        else:
            os.link(self._original, path)
        self._count += 1


def _frames() -> _Links:
    return _Links(Image.new("RGB", _SIZE, (90, 120, 150)).save)


def _write_vos(root: Path, count: int) -> None:
    labels = np.zeros(_SIZE[::-1], np.uint8)
    labels[10:30, 10:30], labels[10:30, 40:60] = 1, 2
    files = {"JPEGImages": _frames(), "Annotations": _Links(Image.fromarray(labels).save)}
    for kind, links in files.items():
        suffix = "jpg" if kind == "JPEGImages" else "png"
        for number in range(count):
            folder = f"{root}/{kind}/video_{number:05d}"
            os.makedirs(folder)
            for t in range(_NUM_FRAMES):
                links.put(f"{folder}/{t:05d}.{suffix}")


def _write_sav(root: Path, count: int) -> None:
    """Write a label for every fourth frame, as SA-V has them."""
    squares = np.zeros((2, *_SIZE[::-1]), np.uint8)
    squares[0, 10:30, 10:30] = squares[1, 10:30, 40:60] = 1
    rles = [
        {"size": rle["size"], "counts": rle["counts"].decode()}
        for rle in (mask_coding.encode(np.asfortranarray(square)) for square in squares)
    ]
    content = json.dumps({"fps": 6, "masklet": [rles] * _NUM_FRAMES})
    frames, labels = _frames(), _Links(lambda path: path.write_text(content))
    for number in range(count):
        name = f"sav_{number:06d}"
        labels.put(f"{root}/{name}_manual.json")
        folder = f"{root}/JPEGImages/{name}"
        os.makedirs(folder)
        for t in range(_NUM_FRAMES):
            frames.put(f"{folder}/{4 * t:05d}.jpg")


def _write_coco_images(root: Path, count: int) -> None:
    frames, images, annotations = _frames(), [], []
    angles = np.linspace(0, 2 * np.pi, 30)
    for number in range(count):
        name = f"{number:012d}.jpg"
        frames.put(f"{root}/{name}")
        size = {"width": _SIZE[0], "height": _SIZE[1]}
        images.append({"id": number, "file_name": name, **size})
        for k in range(6):
            x, y = 12 + 13 * k + 5 * np.cos(angles), 20 + 9 * np.sin(angles)
            polygon = np.stack([x, y], 1).ravel().round(2).tolist()
            annotations.append({"image_id": number, "category_id": 1, "segmentation": [polygon]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    (root / "train.json").write_text(json.dumps(content))


WRITERS = {"vos_folder": _write_vos, "sav": _write_sav, "coco_images": _write_coco_images}


def private_mb() -> float:
    """Return the memory of this process that it shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


class _Reading:
    """A data set of one item: what a worker owns after it has read many clips of another one."""

    def __init__(self, clips: object) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: int) -> float:
        for index in np.random.default_rng(0).permutation(len(self.clips))[:_NUM_READ].tolist():
            self.clips[0, index]
        gc.collect()  # it visits every object, and so copies its page
        return private_mb()


def _figures(source: str, folder: str) -> dict[str, float]:
    """Start, and read from one worker."""
    from core.official import import_sam2

    import_sam2()
    from torch.utils.data import DataLoader

    from core.config import DataConfig
    from core.data import VideoDataModule

    places = {"root": folder}
    if source == "sav":
        places["annotation_folder"] = "."
    if source == "coco_images":
        places = {"train_annotations": f"{folder}/train.json", "image_root": folder}
    data = DataConfig(source=source, num_frames=2, index=f"{folder}/index.json", **places)
    started = time.perf_counter()
    module = VideoDataModule(data, 64, seed=0)
    module.setup()
    start_s = time.perf_counter() - started
    loader = DataLoader(_Reading(module.datasets["train"]), num_workers=1, batch_size=None)
    return {"start_s": start_s, "worker_mb": next(iter(loader))}


if __name__ == "__main__":
    print(json.dumps(_figures(*sys.argv[1:])))
