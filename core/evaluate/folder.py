"""The folder of results: what an earlier start left there, and what of it can be gone on with."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any, Optional

from ..checks import UserError
from ..data.readers.files import read_json
from ..tracking.masks import delete_masks
from ..tracking.weights import Weights
from .scores import VideoScores
from .settings import EvaluateConfig
from .tables import write_json

_SETTINGS = "settings.json"
# All that this program writes into its folder.
_OWN_FOLDERS = ("masks", "scores", "films", "sheets", "compare")
_OWN_FILES = (
    "objects.csv", "objects_*.csv", "frames.csv", "compare.csv", "summary.json",
    "evaluation.html", _SETTINGS, "*.part",
)  # fmt: skip


def prepare(out: Path, config: EvaluateConfig, weights: Weights, kind: str) -> None:
    """Make the folder, or go on with that of an earlier start with the same settings.

    Args:
        out: The folder; with `config.overwrite` earlier results are deleted.
        config: The settings.
        weights: What is evaluated.
        kind: What objects are prompted with.

    Raises:
        UserError: The folder has something else, or cannot be written to.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file, expected a folder")
    settings = _settings_of(config, weights, kind)
    if out.is_dir() and any(out.iterdir()):
        if config.overwrite:
            _empty(out)
        elif not _has_settings(out, settings):
            raise UserError(
                f"out={out} has other files or the results of other settings: choose another"
                " folder, or replace its results with overwrite=true"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / _SETTINGS, settings)
    except OSError as error:
        raise UserError(f"out={out} cannot be written to: {error}") from error


def _settings_of(config: EvaluateConfig, weights: Weights, kind: str) -> dict[str, Any]:
    """Return what the masks depend on: with other settings a folder is not gone on with."""
    file = weights.path.stat()
    return {
        "weights": weights.hub or str(weights.path.resolve()),
        "weights_bytes": file.st_size,
        "weights_time": file.st_mtime_ns,
        "architecture": weights.model.architecture,
        "image_size": weights.model.image_size,
        "data": dataclasses.asdict(config.data),
        "seed": config.seed,
        "prompt": kind,
        "clicks": config.model.num_correction_points,
        "postprocessing": config.postprocessing,
        "precision": config.trainer.precision,
        "max_frames": config.max_frames,
    }


def _empty(out: Path) -> None:
    """Delete what this program wrote, and nothing else."""
    for name in _OWN_FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for path in (path for pattern in _OWN_FILES for path in out.glob(pattern)):
        path.unlink()


def _has_settings(out: Path, settings: dict[str, Any]) -> bool:
    path = out / _SETTINGS
    return path.is_file() and read_json(str(path), str(path)) == settings


def scores_file(out: Path, name: str) -> Path:
    """Return where the scores of a video are, which show that it is finished."""
    return out / "scores" / f"{name}.npz"


def earlier_scores(out: Path, name: str, stamp: str) -> Optional[VideoScores]:
    """Return the scores of an earlier start; None: it did not finish the video as it is now.

    Args:
        out: The folder.
        name: The video.
        stamp: That of its annotations.
    """
    path = scores_file(out, name)
    if not path.is_file():
        return None
    try:
        scores = VideoScores.load(path)
    except KeyError:
        return None
    return scores if scores.stamp == stamp else None


def delete_results(out: Path, name: str) -> None:
    """Delete all that an earlier start wrote of a video."""
    pictures = (out / "sheets" / f"{name}.png", out / "films" / f"{name}.mp4")
    for path in (scores_file(out, name), *pictures):
        path.unlink(missing_ok=True)
    delete_masks(out / "masks" / name)
