"""Small data sets as people have them, and the program's own commands run on them in process."""

import contextlib
import dataclasses
import io
import json
import logging
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from core.config import JSON_SOURCES, DataConfig, VisualizationsConfig
from core.data import VideoDataModule
from core.data.check import main as check_main

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 48, 64
SOURCES = ("vos_folder", "png_folders", "sav", "coco_video")
Fact = Union[str, tuple[str, ...]]  # a text, or several of which one is to be there

TINY = [
    "model.image_size=64", "data.num_frames=2", "data.batch_size=1", "data.val_batch_size=1",
    "data.synthetic.num_train_clips=4", "data.synthetic.num_val_clips=1",
    "data.synthetic.max_objects=2", "trainer.max_steps=1", "trainer.val_check_interval=1",
    "trainer.validate_first=false", "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false", "visualizations.max_pending=100",
    "visualizations.max_overhead=1",
]  # fmt: skip
QUIET = ["hydra/job_logging=none", "hydra/hydra_logging=none"]


def label_map(*ids: int, t: int = 0) -> np.ndarray:
    """Value k of `ids` is a rectangle of 16 x 14 in the k-th column, `t` pixels to the right."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k, value in enumerate(ids):
        labels[8:24, 4 + 20 * k + t : 18 + 20 * k + t] = value
    return labels


def picture(t: int = 0) -> np.ndarray:
    """A frame whose pixels differ everywhere."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    blue = np.full((HEIGHT, WIDTH), 10 * t % 256)
    return np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, blue], -1).astype(np.uint8)


def picture_of(labels: np.ndarray, t: int = 0) -> np.ndarray:
    """A frame in which the first object is white and nothing else is."""
    image = picture(t) // 2
    image[labels == labels[labels > 0].min()] = 255
    return image


def save_frame(path: Path, t: int) -> None:
    Image.fromarray(picture(t)).save(path, quality=95)


def save_palette(path: Path, labels: np.ndarray) -> None:
    image = Image.fromarray(labels)
    # of 256 colours: Pillow stores the values of a shorter one in fewer bits
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0] + [v for v in range(3, 256) for _ in "rgb"])
    image.save(path, format="PNG")


def save_grey(path: Path, labels: np.ndarray) -> None:
    Image.fromarray(labels).save(path, format="PNG")


def encode(mask: np.ndarray) -> dict:
    encoded = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def box_polygon(mask: np.ndarray) -> list[list[int]]:
    rows, columns = np.nonzero(mask)
    y0, y1, x0, x1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    return [[int(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]]


@dataclass
class Made:
    """A data set on disk and how the program is told of it."""

    root: Path
    source: str
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> Path:
        return self.root / ("frames" if self.source in JSON_SOURCES else "JPEGImages")

    @property
    def masks(self) -> Path:
        return self.root / "Annotations"

    @property
    def json(self) -> Path:
        return self.root / "train.json"

    @property
    def first_key(self) -> int:
        """What the reader calls the first object."""
        return 1 if self.source in ("vos_folder", "png_folders") else 0

    def settings(self) -> dict[str, Any]:
        settings = {"num_frames": 2, "num_workers": 0, "root": str(self.root)}
        settings |= {"clips_per_video": 1, "val_clips_per_video": 1}
        if self.source in JSON_SOURCES:
            del settings["root"]
            settings |= {"train_annotations": str(self.json), "image_root": str(self.frames)}
        if self.source == "sav":
            settings["annotation_folder"] = "."
        return settings | self.fields

    def overrides(self) -> list[str]:
        settings = {k: v for k, v in self.settings().items() if k != "annotation_folder"}
        return [f"data={self.source}", *(f"data.{key}={value}" for key, value in settings.items())]

    def module(self, **fields: Any) -> VideoDataModule:
        module = VideoDataModule(
            DataConfig(source=self.source, **{**self.settings(), **fields}), 64, 0
        )
        module.setup()
        return module

    def reader(self, **fields: Any) -> Any:
        return self.module(**fields).datasets["train"].reader

    def edit(self, change: Callable[[dict], Any]) -> "Made":
        """Change what the JSON of a COCO data set holds."""
        content = json.loads(self.json.read_text())
        change(content)
        self.json.write_text(json.dumps(content))
        return self


def write_set(
    root: Path,
    source: str = "vos_folder",
    videos: Sequence[str] = ("a", "b"),
    num_frames: int = 4,
    labels: Callable[[int], np.ndarray] = lambda t: label_map(1, 2, t=t),
    *,
    frame: Callable[[Path, int], None] = save_frame,
    mask: Callable[[Path, np.ndarray], None] = save_palette,
    frame_name: str = "{:05d}.jpg",
    mask_name: str = "{:05d}.png",
    segmentation: Callable[[np.ndarray], Any] = encode,
) -> Made:
    """Write a data set: frame t of each video has the objects of ``labels(t)``.

    SA-V labels every fourth frame: only those have files, with four times the number.
    """
    made = Made(root, source)
    images: list[dict] = []
    annotations: list[dict] = []
    for video in videos:
        (made.frames / video).mkdir(parents=True, exist_ok=True)
        masklet = []
        for t in range(num_frames):
            number = 4 * t if source == "sav" else t
            path = made.frames / video / frame_name.format(number)
            frame(path, t)
            values = labels(t)
            ids = [int(value) for value in np.unique(values) if value]
            if source == "vos_folder":
                (made.masks / video).mkdir(parents=True, exist_ok=True)
                mask(made.masks / video / mask_name.format(t), values)
            elif source == "png_folders":
                for k, value in enumerate(ids):
                    folder = made.masks / video / str(k)
                    folder.mkdir(parents=True, exist_ok=True)
                    mask(folder / mask_name.format(t), (values == value).astype(np.uint8) * 255)
            elif source == "sav":
                masklet.append([encode(values == value) for value in ids])
            else:
                images.append(
                    {
                        "id": len(images) + 1,
                        "file_name": f"{video}/{path.name}",
                        "video_id": video,
                        "order_in_video": t,
                        "width": values.shape[1],
                        "height": values.shape[0],
                    }
                )
                annotations += [
                    {
                        "id": len(annotations) + k + 1,
                        "image_id": len(images),
                        "category_id": value,
                        "segmentation": segmentation(values == value),
                    }
                    for k, value in enumerate(ids)
                ]
        if source == "sav":
            content = {"masklet": masklet, "fps": [6]}
            (root / f"{video}_manual.json").write_text(json.dumps(content))
    if source == "coco_video":
        used = sorted({item["category_id"] for item in annotations})
        categories = [{"id": key, "name": f"tool {key}"} for key in used]
        content = {"images": images, "annotations": annotations, "categories": categories}
        made.json.write_text(json.dumps(content))
    return made


@dataclass
class Outcome:
    """What a command said: `end` is what it exits with, empty at success."""

    end: str
    lines: list[str]
    printed: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def says(self, *facts: Fact) -> bool:
        """Return whether one line has all of the facts, whatever the case of its letters."""
        return any(has_all(line, facts) for line in self.lines)

    def is_refused(self, *facts: Fact) -> None:
        """Check for one sentence that begins with ``error:`` and has all of the facts."""
        assert self.end.startswith("error: "), f"not refused: {self.end!r}\n{self.text}"
        assert "\n" not in self.end.strip(), self.end
        assert "Traceback" not in self.text, self.text
        assert has_all(self.end, facts), f"{self.end}\nlacks one of {facts}"

    def went_well(self) -> None:
        assert self.end == "", self.end


def has_all(line: str, facts: Sequence[Fact]) -> bool:
    low = line.lower()
    return all(
        any(choice.lower() in low for choice in ((fact,) if isinstance(fact, str) else fact))
        for fact in facts
    )


class _Remember(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.lines += [f"{record.levelname} {line}" for line in text.splitlines()]
        if record.exc_info:
            self.lines.append("Traceback")


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Collect warnings and log messages as lines."""
    handler, lines = _Remember(), []
    logger, own = logging.getLogger(), logging.getLogger("core")
    level, own_level = logger.level, own.level
    logger.addHandler(handler)
    own.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        own.setLevel(own_level)
        for warning in caught:
            if not issubclass(warning.category, (DeprecationWarning, FutureWarning)):
                lines += str(warning.message).splitlines()
        lines += handler.lines


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _outcome(end: str, printed: str, lines: list[str], hide: Optional[Path]) -> Outcome:
    outcome = Outcome(end, [*printed.splitlines(), *lines, *end.splitlines()], printed)
    if hide is not None:
        # the words that are looked for must not come from the folder's own name
        outcome.end = end.replace(str(hide), "SET")
        outcome.lines = [line.replace(str(hide), "SET") for line in outcome.lines]
    return outcome


def check(folder: Path, *overrides: str, hide: Optional[Path] = None) -> Outcome:
    """Run ``python -m core.data`` in this process, in `folder`."""
    end, out = "", io.StringIO()
    with working_in(folder), listening() as lines:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            try:
                check_main(list(overrides))
            except SystemExit as stop:
                end = str(stop.code or "")
    return _outcome(end, out.getvalue(), lines, hide)


def check_set(made: Made, *more: str) -> Outcome:
    """Check a data set as a user would, its folder called SET in what is said."""
    folder = made.root.parent / "checked"
    return check(folder, "model.image_size=64", *made.overrides(), *more, hide=made.root)


def read_all(made: Made, **fields: Any) -> Outcome:
    """Set training up and return what was said before its first step."""
    with listening() as lines:
        try:
            made.module(**fields)
            end = ""
        except ValueError as error:
            end = f"error: {error}"
    return _outcome(end, "", lines, made.root)


def run_here(monkeypatch: Any, folder: Path, *arguments: str) -> Outcome:
    """Run train.py in this process."""
    files = []
    if not any(argument.startswith("swanlab.log_dir") for argument in arguments):
        files.append(f"swanlab.log_dir={folder / 'swanlog'}")
    if not any(argument.startswith("hydra.") for argument in arguments):
        files.append(f"hydra.run.dir={folder / 'run'}")

    def hung(status: int) -> None:
        raise AssertionError("SwanLab did not finish")

    # What ends a process whose SwanLab hangs would end the tests.
    monkeypatch.setattr(os, "_exit", hung)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *QUIET, *files])
    end, out, err = "", io.StringIO(), io.StringIO()
    with listening() as lines:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
            except SystemExit as stop:
                end = str(stop.code or "")
            except BaseException as error:
                end = f"Traceback: {type(error).__name__}: {error}"
    outcome = _outcome(end, out.getvalue(), lines, None)
    outcome.lines += err.getvalue().splitlines()
    if end == "1":
        # Hydra exits with 1 after it wrote what is wrong
        outcome.end = err.getvalue().strip()
    return outcome


def nothing_was_started(folder: Path) -> None:
    """Check that a refused command left no run behind."""
    assert not (folder / "run" / "checkpoints").exists()
    assert not list(folder.glob("swanlog/run-*"))
    assert not (folder / "run" / "csv").exists()


def without_run_book() -> list[str]:
    """Turn off the run book, where there is one: it takes pictures without any logger."""
    names = {item.name for item in dataclasses.fields(VisualizationsConfig)}
    return ["visualizations.run_book=false"] if "run_book" in names else []
