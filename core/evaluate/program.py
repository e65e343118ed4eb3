"""Tracks, scores and writes, video by video."""

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from PIL import Image
from tqdm import tqdm

from ..checks import UserError
from ..data.readers.files import DataError, read_json
from ..devices import device_of
from ..out_of_memory import free_memory, memory_for_tracking
from ..tracking.clicks import segment
from ..tracking.masks import fits_palette, write_masks
from ..tracking.precision import computing_with
from ..tracking.tracker import TrackedFrame, track
from ..tracking.weights import Weights, build_predictor
from ..words import counted
from .compare import compare
from .folder import delete_results, earlier_scores, prepare, scores_file
from .page import build_page
from .pictures import Tracked, draw_sheet, write_film
from .protocols import IMAGES, score_objects
from .scores import VideoScores
from .settings import EvaluateConfig, image_prompt_of, prompt_of, protocols_of
from .tables import frames_csv, means, objects_csv, write_json, write_text
from .videos import Videos, find_videos, first_masks, layout_of, prompts_of

if TYPE_CHECKING:
    from sam2.sam2_video_predictor import SAM2VideoPredictor

logger = logging.getLogger(__name__)

# So many of the worst videos are shown.
_NUM_SHEETS = 4


@dataclass
class Evaluation:
    """What came of the videos.

    Attributes:
        out: Where everything was written.
        summary: What ``summary.json`` holds.
        scores: By the names of the videos that were tracked.
        failed: Why the others were not, by their names.
        tracked: The videos with their masks and what the first protocol counts.
        earlier: Those that an earlier start had finished.
    """

    out: Path
    summary: dict[str, Any]
    scores: dict[str, VideoScores]
    failed: dict[str, str] = field(default_factory=dict)
    tracked: dict[str, Tracked] = field(default_factory=dict)
    earlier: list[str] = field(default_factory=list)


def evaluate(config: EvaluateConfig, weights: Weights, out: Path) -> Evaluation:
    """Track and score whole videos, and write masks and tables.

    Videos that an earlier start with the same settings finished are not tracked again, unless their
    annotations have changed. A video that cannot be read or tracked, or that memory does not
    suffice for, is left out, with its reason.

    Args:
        config: The settings, those of the run included; `config.model` is that of the weights.
        weights: What `core.tracking.weights.find` returned.
        out: The folder to write to.

    Raises:
        UserError: The data, the weights or the folder cannot be used.
    """
    device = device_of(config.trainer)
    videos = find_videos(config)
    kind = prompt_of(config, weights.prompt_type)
    if doubt := _doubt(kind, weights):
        logger.warning(doubt)
    predictor = build_predictor(weights, device, config.postprocessing)
    prepare(out, config, weights, kind)
    result = Evaluation(out, {}, {})
    for name in tqdm(videos.names, desc="videos", unit="video"):
        try:
            with memory_for_tracking(config), computing_with(config.trainer.precision, device):
                _add_video(result, predictor, videos, name, kind, config)
        except (UserError, OSError) as error:
            result.failed[name] = str(error)
        if name in result.failed:
            # not above: the error's traceback holds the tensors of the video
            free_memory()
            tqdm.write(f"video {name} is left out: {result.failed[name]}", file=sys.stderr)
    _write_tables(result, config, weights, kind)
    return result


def _doubt(kind: str, weights: Weights) -> Optional[str]:
    """Return a warning where the weights never saw such prompts."""
    if weights.prompt_type in ("mixed", kind):
        return None
    return (
        f"prompt={kind}, but the weights were trained with {weights.prompt_type} prompts alone:"
        " expect poor masks"
    )


def _add_video(
    result: Evaluation,
    predictor: "SAM2VideoPredictor",
    videos: Videos,
    name: str,
    kind: str,
    config: EvaluateConfig,
) -> None:
    """Take the scores of an earlier start, or track and score a video."""
    stamp = videos.stamp(name)
    scores = earlier_scores(result.out, name, stamp)
    if scores is not None:
        result.earlier.append(name)
    else:
        delete_results(result.out, name)
        scores = _evaluate_video(predictor, videos, name, kind, config, result.out)
        scores.stamp = stamp
        scores.save(scores_file(result.out, name))
    result.scores[name] = scores
    result.tracked[name] = _tracked(name, videos, result, config, kind)


def _tracked(
    name: str, videos: Videos, result: Evaluation, config: EvaluateConfig, kind: str
) -> Tracked:
    scores = result.scores[name]
    layout = layout_of(config.data)
    protocol = IMAGES if scores.image else protocols_of(config)[0]
    ranges = _lvos_ranges(config).get(name) if protocol == "lvos" else None
    objects = score_objects(protocol, scores, layout.palette, ranges)
    return Tracked(
        name,
        partial(videos.open, name),
        scores,
        objects,
        result.out / "masks" / name,
        layout.overlapping,
        image_prompt_of(kind) if scores.image else kind,
    )


def show(result: Evaluation, config: EvaluateConfig, compared: Optional[Evaluation]) -> None:
    """Write sheets and films of the worst videos, the comparison, and the page with all of it.

    Args:
        result: What `evaluate` returned.
        config: The settings.
        compared: What it returned for the weights to compare with.
    """
    if compared is not None:
        result.summary["compare"] = compare(
            result.tracked, compared.tracked, result.out, compared.summary["weights"]
        )
        sizes = [each.summary["image_size"] for each in (result, compared)]
        if sizes[0] != sizes[1]:
            result.summary["notes"].append(
                f"frames are {sizes[0]} px for these weights, but {sizes[1]} px for"
                f" {compared.summary['weights']}, which they are compared with"
            )
        result.summary["notes"] += _notes_on_earlier(compared, f"{compared.summary['weights']}: ")
        write_json(result.out / "summary.json", result.summary)
    worst = _worst(result.tracked)
    for name in worst[:_NUM_SHEETS]:
        path = result.out / "sheets" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_sheet(result.tracked[name])).save(path)
    moving = [name for name in worst if not result.scores[name].image]
    _write_films(result, moving[: _num_films(config)])
    objects = {name: tracked.objects for name, tracked in result.tracked.items()}
    page = build_page(result.out, result.summary, objects, worst[:_NUM_SHEETS])
    write_text(result.out / "evaluation.html", page)


def _num_films(config: EvaluateConfig) -> int:
    return {"auto": _NUM_SHEETS, "none": 0}.get(config.films, config.films)


def _worst(tracked: Mapping[str, Tracked]) -> list[str]:
    """Return the videos with a score, the worst first."""
    means = {
        name: sum(score.j + score.f for score in video.objects) / len(video.objects)
        for name, video in tracked.items()
        if video.objects
    }
    return sorted(means, key=means.__getitem__)


def _write_films(result: Evaluation, names: Sequence[str]) -> None:
    try:
        for name in tqdm(names, desc="films", unit="film", disable=not names):
            error = write_film(result.tracked[name], result.out / "films" / f"{name}.mp4")
            if error:
                raise UserError(error)
    except UserError as error:
        print(f"no further film: {error}", file=sys.stderr)


def _evaluate_video(
    predictor: "SAM2VideoPredictor",
    videos: Videos,
    name: str,
    kind: str,
    config: EvaluateConfig,
    out: Path,
) -> VideoScores:
    video, layout = videos.open(name), layout_of(config.data)
    first = first_masks(video)
    scores = VideoScores.empty(
        len(video.annotated),
        list(first),
        [video.object_names.get(key, "") for key in first],
        [video.numbers[position] for position, _ in first.values()],
    )
    scores.image = len(video.frames) == 1
    rows = {position: row for row, position in enumerate(video.annotated)}
    per_object = not fits_palette(first, layout.overlapping)
    tracked: Iterable[TrackedFrame]
    if scores.image:
        prompts, masks = prompts_of(first, image_prompt_of(kind)), video.masks(0)
        clicks = config.model.num_correction_points
        tracked = [segment(predictor, video.frames, prompts, masks, clicks)]
    else:
        tracked = track(predictor, video.frames, prompts_of(first, kind))
    progress = tqdm(tracked, desc=name, total=len(video.frames), unit="frame", leave=False)
    for frame in progress:
        masks = frame.masks(layout.overlapping)
        stem = video.frames.names[frame.index]
        write_masks(out / "masks" / name, stem, masks, first, per_object, video.frames.size)
        if frame.index in rows:
            gt = video.masks(frame.index)
            row, number = rows[frame.index], video.numbers[frame.index]
            scores.add(row, number, masks, gt, layout.complete)
    return scores


def _counted_by(config: EvaluateConfig, scores: Iterable[VideoScores]) -> list[str]:
    """Return the protocols that count anything here, the first of which gives ``objects.csv``."""
    images = {found.image for found in scores}
    names = [] if images == {True} else protocols_of(config)
    return [*names, IMAGES] if True in images else names


def _write_tables(result: Evaluation, config: EvaluateConfig, weights: Weights, kind: str) -> None:
    layout, names = layout_of(config.data), _counted_by(config, result.scores.values())
    ranges = _lvos_ranges(config) if "lvos" in names else {}
    by_protocol = {}
    for k, protocol in enumerate(names):
        objects = {
            video: score_objects(protocol, scores, layout.palette, ranges.get(video))
            for video, scores in result.scores.items()
        }
        by_protocol[protocol] = means(protocol, objects, layout.categories)
        if k == 0:
            write_text(result.out / "objects.csv", objects_csv(objects))
        if len(names) > 1:
            write_text(result.out / f"objects_{protocol}.csv", objects_csv(objects))
    write_text(result.out / "frames.csv", frames_csv(result.scores))
    result.summary = {
        **by_protocol[names[0]],
        "objects_tracked": sum(len(scores.object_ids) for scores in result.scores.values()),
        "annotated_frames": sum(len(scores.numbers) for scores in result.scores.values()),
        "prompt": image_prompt_of(kind) if names == [IMAGES] else kind,
        "postprocessing": config.postprocessing,
        "weights": str(weights),
        "image_size": weights.model.image_size,
        "not_scored": result.failed,
        "notes": [
            *_notes_on_earlier(result),
            *_notes(result, config, weights, kind, by_protocol, bool(ranges)),
        ],
        "protocols": by_protocol,
    }
    write_json(result.out / "summary.json", result.summary)


def _notes(
    result: Evaluation,
    config: EvaluateConfig,
    weights: Weights,
    kind: str,
    by_protocol: Mapping[str, Mapping[str, Any]],
    has_ranges: bool,
) -> list[str]:
    notes = []
    for name, found in by_protocol.items():
        tracked = sum(
            len(scores.object_ids)
            for scores in result.scores.values()
            if scores.image == (name == IMAGES)
        )
        if found["objects"] != tracked:
            notes.append(
                f"{name} counts {counted(found['objects'], 'object')}, {tracked} were tracked"
            )
    if "lvos" in by_protocol and not has_ranges:
        notes.append(
            "lvos: the data has no *_meta.json with frame ranges: each object's first and last"
            " annotated frame were taken"
        )
    if IMAGES in by_protocol:
        prompt = "box" if image_prompt_of(kind) == "bbox" else "click"
        notes.append(
            f"videos of one frame are images: each object got a {prompt} and"
            f" {counted(config.model.num_correction_points, 'correction click')}, and no video"
            " protocol counts it"
        )
        if image_prompt_of(kind) != kind and (doubt := _doubt(image_prompt_of(kind), weights)):
            notes.append(f"images: {doubt}")
    if config.data.source == "vos_folder":
        notes.append("255 beside other ids in a mask is no object: it was not prompted nor scored")
    return notes


def _notes_on_earlier(result: Evaluation, whose: str = "") -> list[str]:
    """Return a note on the videos that were not tracked this time, where there are any."""
    if not result.earlier:
        return []
    earlier, total = len(result.earlier), counted(len(result.scores), "video")
    return [f"{whose}{earlier} of {total} {'is' if earlier == 1 else 'are'} from an earlier start"]


def _lvos_ranges(config: EvaluateConfig) -> dict[str, dict[int, tuple[int, int]]]:
    """Return LVOS's first and last frame of each object, by video, empty for other data."""
    if config.data.root is None:
        return {}
    ranges = {}
    for path in sorted(Path(config.data.root).glob("*_meta.json")):
        content = read_json(str(path), str(path))
        try:
            for video, entry in content["videos"].items():
                ranges[video] = {
                    int(key): (
                        int(item["frame_range"]["start"]),
                        int(item["frame_range"]["end"]),
                    )
                    for key, item in entry["objects"].items()
                }
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{path} has no frame ranges as LVOS has them ({type(error).__name__}: {error})"
            ) from error
    return ranges


def report(result: Evaluation) -> str:
    """Return the lines that end the program."""
    summary = result.summary
    lines = [
        f"{name:<11} {summary[name]:.4f}" for name in ("J&F", "J", "F") if summary[name] is not None
    ]
    lines.append(
        f"protocol    {summary['protocol']}: {counted(summary['objects'], 'object')} in"
        f" {counted(summary['videos'], 'video')}"
    )
    for name, other in list(summary["protocols"].items())[1:]:
        if other["J&F"] is not None:
            lines.append(
                f"{name:<11} J&F {other['J&F']:.4f}, {counted(other['objects'], 'object')}"
            )
    if "compare" in summary and summary["compare"]["objects"]:
        compared = summary["compare"]
        lines.append(
            f"compared    J&F {compared['gain']:+.4f} against {compared['with']}: of"
            f" {counted(compared['objects'], 'object')} {compared['better']} better,"
            f" {compared['worse']} worse"
        )
    lines += [f"note        {note}" for note in summary["notes"]]
    if result.failed:
        lines.append(f"left out    {', '.join(result.failed)}: summary.json says why")
    lines.append(f"weights     {summary['weights']}")
    lines.append(f"results     {result.out}")
    return "\n".join(lines)
