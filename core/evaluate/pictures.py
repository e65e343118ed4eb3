"""Films and sheets of the worst videos, made of the masks that were written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from ..tracking.film import Film, overlay
from ..tracking.labels import write_text
from ..tracking.masks import fits_palette, read_masks
from ..visualization.clip import Clip, ClipFrame, Masks, Scores
from ..visualization.drawing.sheet import render_sheet
from ..visualization.drawing.text import fit
from ..visualization.palette import Color
from ..visualization.prompts import PromptData
from ..visualization.reduction import compare_masks
from .protocols import ObjectScore
from .scores import VideoScores
from .videos import AnnotatedVideo, make_prompt

_PANEL = 256
_NUM_ROWS = 4
# Smaller films are enlarged by whole numbers: labels have to fit.
_FILM_SIDE = 512
# Blue and orange of Okabe and Ito's set: which weights an outline is of.
ONE, OTHER = (0, 114, 178), (230, 159, 0)


@dataclass(frozen=True)
class Tracked:
    """A video and what was written of it.

    Attributes:
        name: Its name.
        open: Returns the data set's video.
        scores: What was measured.
        objects: What the first protocol counts of it.
        folder: Its masks.
        overlapping: Whether its masks may overlap.
        prompt: What its objects were prompted with: ``mask``, ``bbox`` or ``point``.
    """

    name: str
    open: Callable[[], AnnotatedVideo]
    scores: VideoScores
    objects: Sequence[ObjectScore]
    folder: Path
    overlapping: bool
    prompt: str

    @property
    def ids(self) -> list[int]:
        """The tracked objects."""
        return self.scores.object_ids.tolist()

    def masks(self, name: str) -> dict[int, np.ndarray]:
        """Return the masks that were written of a frame, by the frame's name."""
        per_object = not fits_palette(self.ids, self.overlapping)
        return read_masks(self.folder, name, self.ids, per_object)

    def name_of(self, object_id: int) -> str:
        """Return what an object is called."""
        return str(self.scores.names[self.ids.index(object_id)]) or f"object {object_id}"


def write_film(tracked: Tracked, path: Path) -> str:
    """Write a video with its masks, names and mean J&F; return why there is no film, or nothing."""
    means = {score.object_id: (score.j + score.f) / 2 for score in tracked.objects}
    labels = {
        key: tracked.name_of(key) + (f" {means[key]:.2f}" if key in means else "")
        for key in tracked.ids
    }
    frames = tracked.open().frames
    factor = max(1, _FILM_SIDE // max(frames.size))
    with Film(path) as film:
        for position, name in enumerate(frames.names):
            masks = {key: _enlarge(mask, factor) for key, mask in tracked.masks(name).items()}
            film.add(overlay(_enlarge(frames.image(position), factor), masks, labels))
            if film.error is not None:
                break
    return film.error or ""


def draw_sheet(tracked: Tracked) -> np.ndarray:
    """Return a sheet of a few annotated frames: the first, the worst, and some between."""
    video, rows = tracked.open(), _chosen_rows(tracked.scores)
    first = {
        int(key): int(number)
        for key, number in zip(tracked.scores.object_ids, tracked.scores.first, strict=True)
    }
    images, gt, pred, errors, frames = [], [], [], [], []
    for row in rows:
        position, number = video.annotated[row], int(tracked.scores.numbers[row])
        image = video.frames.image(position)
        found, known = tracked.masks(video.frames.names[position]), video.masks(position)
        empty = np.zeros(image.shape[:2], bool)
        images.append(_reduce(image))
        whole = [
            np.stack([masks.get(key, empty) for key in tracked.ids]) for masks in (known, found)
        ]
        reduced = [np.stack([_reduce_mask(mask) for mask in masks]) for masks in whole]
        gt.append(reduced[0])
        pred.append(reduced[1])
        errors.append(np.stack([_reduce_mask(plane) for plane in compare_masks(*whole)]))
        prompts = [
            _prompt_data(tracked.prompt, k, known[key], gt[-1][k])
            for k, key in enumerate(tracked.ids)
            if first[key] == number
        ]
        frames.append(_frame(row, number, prompts))
    clip = _clip(tracked, rows, frames, np.stack(images), (np.stack(gt), np.stack(pred)))
    return render_sheet(replace(clip, errors=np.stack(errors)))


def _prompt_data(kind: str, k: int, mask: np.ndarray, reduced: np.ndarray) -> PromptData:
    """Return the prompt that a mask gave, in pixels of the reduced frame."""
    if kind == "mask":
        return PromptData("mask", k, mask=torch.from_numpy(reduced))
    given = make_prompt(k, 0, mask, kind)
    scale = np.array(reduced.shape[::-1]) / mask.shape[::-1]
    if given.box is not None:
        box = np.array(given.box).reshape(2, 2) * scale
        return PromptData("bbox", k, bbox=torch.from_numpy(box.flatten()))
    assert given.points is not None
    assert given.labels is not None
    points, labels = torch.from_numpy(given.points * scale), torch.from_numpy(given.labels)
    return PromptData("point", k, points=points, labels=labels)


def _chosen_rows(scores: VideoScores) -> list[int]:
    """Return the first annotated frame, the one of the lowest mean J, and others between."""
    there = (scores.gt_pixels > 0) | (scores.pred_pixels > 0)
    # frames without anything count as well as any other can
    means = np.where(there, scores.j, 0).sum(1) / np.maximum(there.sum(1), 1)
    worst = int(np.where(there.any(1), means, np.inf).argmin())
    spread = np.linspace(0, len(means) - 1, _NUM_ROWS).round().astype(int).tolist()
    return sorted(list(dict.fromkeys([0, worst, spread[-1], *spread]))[:_NUM_ROWS])


def _frame(position: int, number: int, prompts: list[PromptData]) -> ClipFrame:
    return ClipFrame(position=position, number=number, prompts=prompts, prompted=bool(prompts))


def _clip(
    tracked: Tracked,
    rows: list[int],
    frames: list[ClipFrame],
    images: np.ndarray,
    masks: tuple[np.ndarray, np.ndarray],
) -> Clip:
    scores, (gt, pred) = tracked.scores, masks
    gt_areas, pred_areas = scores.gt_pixels[rows], scores.pred_pixels[rows]
    # from J and the two areas: I = J (A + B) / (1 + J)
    j = np.where((gt_areas + pred_areas) > 0, scores.j[rows], 0)
    intersections = np.round(j * (gt_areas + pred_areas) / (1 + j)).astype(np.int64)
    names = [str(name) for name in scores.names]
    return Clip(
        name=tracked.name,
        frames=frames,
        images=images,
        model_size=(images.shape[1], images.shape[2]),
        ids=tracked.ids,
        gt=Masks(gt, gt_areas),
        pred=Masks(pred, pred_areas),
        scores=Scores(intersections, gt_areas + pred_areas - intersections),
        category_names=names if all(names) else None,
    )


def _enlarge(pixels: np.ndarray, factor: int) -> np.ndarray:
    return pixels.repeat(factor, 0).repeat(factor, 1) if factor > 1 else pixels


def _reduce(image: np.ndarray) -> np.ndarray:
    factor = _PANEL / max(image.shape[:2])
    if factor >= 1:
        return image
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _reduce_mask(mask: np.ndarray) -> np.ndarray:
    """Reduce a mask; whatever thin part it has stays visible."""
    share = _reduce(mask.astype(np.float32))
    half = share >= 0.5
    return half if half.any() else share > 0


@dataclass(frozen=True)
class Change:
    """An object that two weights track differently.

    Attributes:
        video: The video's name.
        object_id: The object.
        one: Mean J&F of the weights evaluated.
        other: Mean J&F of those they are compared with.
    """

    video: str
    object_id: int
    one: float
    other: float

    @property
    def gain(self) -> float:
        """How much better the weights evaluated are."""
        return self.one - self.other


def draw_changes(
    changes: Sequence[Change], one: Mapping[str, Tracked], other: Mapping[str, Tracked]
) -> Image.Image:
    """Return a picture of changes: of each the frame of the largest change, with both outlines.

    Args:
        changes: At least one.
        one: The videos by name, as the weights evaluated track them.
        other: The same of those they are compared with.
    """
    tiles = [_tile(change, one[change.video], other[change.video]) for change in changes]
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    columns = min(2, len(tiles))
    sheet = Image.new(
        "RGB", (columns * (width + 8), -(-len(tiles) // columns) * (height + 8)), (255, 255, 255)
    )
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % columns * (width + 8), k // columns * (height + 8)))
    return sheet


def _tile(change: Change, one: Tracked, other: Tracked) -> Image.Image:
    column = one.ids.index(change.object_id)
    row = int(np.abs(one.scores.j[:, column] - other.scores.j[:, column]).argmax())
    video, number = one.open(), int(one.scores.numbers[row])
    position = video.annotated[row]
    image, name = video.frames.image(position), video.frames.names[position]
    factor = max(1, round(560 / max(image.shape[:2])))
    image = _enlarge(image, factor)
    for tracked, color in ((other, OTHER), (one, ONE)):
        mask = tracked.masks(name)[change.object_id]
        image = _outline(image, _enlarge(mask, factor), color)
    drawn = np.full((image.shape[0] + 44, max(560, image.shape[1]), 3), 255, np.uint8)
    drawn[44:, : image.shape[1]] = image
    title = f"{change.video}, {one.name_of(change.object_id)}, frame {number}"
    write_text(drawn, 0, 0, fit(title, drawn.shape[1] - 8))
    write_text(drawn, 0, 21, f"these weights {change.one:.3f}", ONE)
    write_text(drawn, 190, 21, f"compared with {change.other:.3f}", OTHER)
    return Image.fromarray(drawn)


def _outline(image: np.ndarray, mask: np.ndarray, color: Color) -> np.ndarray:
    inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    out = image.copy()
    out[mask & ~inner] = color
    return out
