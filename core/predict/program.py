"""Tracks the prompted objects of one video and writes masks and a film."""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from tqdm import tqdm

from ..checks import UserError
from ..devices import device_of
from ..tracking.directions import store_backwards, track_both_ways
from ..tracking.film import Film, overlay
from ..tracking.frames import Chosen
from ..tracking.masks import fits_palette, write_masks
from ..tracking.precision import computing_with
from ..tracking.prompts import Prompt, check_prompts, first_prompts
from ..tracking.tracker import TrackedFrame, track
from ..tracking.weights import Weights, build_predictor
from ..words import counted
from .settings import PredictConfig

if TYPE_CHECKING:
    from sam2.sam2_video_predictor import SAM2VideoPredictor


@dataclass
class Prediction:
    """What was written.

    Attributes:
        weights: The file that was taken.
        out: The folder.
        num_frames: Frames with masks.
        object_ids: The objects.
        film: The film; None: there is none.
        film_error: Why there is no film although one was asked for.
    """

    weights: str
    out: Path
    num_frames: int
    object_ids: list[int]
    film: Optional[Path]
    film_error: Optional[str]


def predict(
    config: PredictConfig, weights: Weights, frames: Chosen, prompts: list[Prompt], out: Path
) -> Prediction:
    """Track a video; everything is checked before anything runs.

    Args:
        config: The settings.
        weights: What `core.tracking.weights.find` returned.
        frames: The frames to track.
        prompts: What `core.predict.prompt_files.read_prompts` returned.
        out: The folder to write to.

    Raises:
        UserError: Something cannot be used; frames that were finished by then stay.
    """
    device = device_of(config.trainer)
    check_prompts(prompts, len(frames), frames.size)
    _prepare_folder(out, config.overwrite)
    predictor = build_predictor(weights, device, config.postprocessing)
    ids = sorted(first_prompts(prompts))
    per_object = config.per_object or not fits_palette(ids, overlapping=False)
    num_frames = 0
    with _film(config, frames, out) as film, computing_with(config.trainer.precision, device):
        tracked = _track(predictor, config, frames, prompts, out / ".backwards")
        for frame in tqdm(tracked, desc="tracking", total=len(frames), unit="frame"):
            masks = frame.masks(overlapping=config.per_object)
            name = frames.names[frame.index]
            write_masks(out / "masks", name, masks, ids, per_object, frames.size)
            if film is not None:
                labels = {key: f"object {key}" for key in masks}
                film.add(overlay(frame.image, masks, labels))
            num_frames += 1
    shutil.rmtree(out / ".backwards", ignore_errors=True)
    error = film.error if film is not None else None
    path = film.path if film is not None and error is None else None
    return Prediction(str(weights), out, num_frames, ids, path, error)


def _track(
    predictor: "SAM2VideoPredictor",
    config: PredictConfig,
    frames: Chosen,
    prompts: list[Prompt],
    scratch: Path,
) -> Iterator[TrackedFrame]:
    latest = max(prompt.frame for prompt in first_prompts(prompts).values())
    if config.direction == "forward" or latest == 0:
        yield from track(predictor, frames, prompts)
        return
    shutil.rmtree(scratch, ignore_errors=True)
    backwards = store_backwards(predictor, frames, prompts, scratch)
    for _ in tqdm(backwards, desc="backwards", total=latest, unit="frame"):
        pass
    yield from track_both_ways(predictor, frames, prompts, scratch)


@contextlib.contextmanager
def _film(config: PredictConfig, frames: Chosen, out: Path) -> Iterator[Optional[Film]]:
    if not config.film:
        yield None
        return
    rate = getattr(frames.frames, "rate", None)
    if rate is not None and len(frames) > 1:
        rate = Fraction(rate) / (frames.indices[1] - frames.indices[0])
    try:
        film = Film(out / "film.mp4", rate)
    except UserError as error:
        print(f"no film: {error}", file=sys.stderr)
        yield None
        return
    with film:
        yield film


def _prepare_folder(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file, expected a folder")
    results = [out / "masks", out / "film.mp4"]
    if any(path.exists() for path in results) and not overwrite:
        raise UserError(
            f"out={out} has results already: choose another folder, or replace them with"
            " overwrite=true"
        )
    shutil.rmtree(results[0], ignore_errors=True)
    results[1].unlink(missing_ok=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} cannot be written to: {error}") from error


def report(result: Prediction) -> str:
    """Return the lines that end the program."""
    lines = [
        f"masks       {result.out / 'masks'}: {counted(result.num_frames, 'frame')},"
        f" objects {', '.join(map(str, result.object_ids))}"
    ]
    lines.append(f"weights     {result.weights}")
    if result.film is not None:
        lines.append(f"film        {result.film}")
    if result.film_error is not None:
        lines.append(f"no film     {result.film_error}")
    return "\n".join(lines)
