"""What may be wrong with a data set: rules on what was measured, and what to do.

Each rule takes the numbers of one video and names the frames that show what it found. They say what
is unusual; whether it is wrong a person sees in the pictures.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from ...words import counted
from .alignment import find_offset, find_shift
from .measure import box_ious, speck_limit
from .scan import VideoScan

# An object is tiny below so many pixels of the model's picture along a side: its decoder has a
# quarter of these pixels.
_TINY_SIDE = 8
# The share of a frame that an object may fill, in most of its frames.
_WHOLE, _MOST_FRAMES = 0.9, 0.8
# After a gap of no more frames than these, an object in its old place was forgotten in between.
_LONGEST_GAP = 3
_SAME_PLACE = 0.5
# From one frame to the next: moved by so many of its own sizes, or so much larger or smaller, and
# so many times as much as it usually does.
_JUMP_SIZES, _JUMP_FACTOR, _UNUSUAL = 2.0, 4.0, 5.0
_FEWEST_PIXELS = 64
# Where one id ends and the next begins, the boxes share this much and the sizes are that alike.
_HANDOVER, _ALIKE_SIZE = 0.7, 2.0
# A class that has fewer objects than these in training is not learned.
_RARE = 3


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        title: What is wrong.
        todo: What to do.
        harm: 3 where training or its numbers are wrong, 2 where objects are, 1 where it is worth a
            look.
    """

    title: str
    todo: str
    harm: int


KINDS = {
    "shifted": Kind(
        "Masks are shifted against their frames",
        "Look at how frames and masks were exported: a crop, a border or another size on one side"
        " moves them apart, and so do numbers that count from 0 on one side and from 1 on the"
        " other. The right-hand picture has the masks where the edges are.",
        3,
    ),
    "duplicates": Kind(
        "Frames of validation are in training, too",
        "val/* does not measure unseen videos then. Keep all videos of one recording on one side:"
        " name them in data.train_list and data.val_list, or take them out.",
        3,
    ),
    "files": Kind(
        "Files may not mean what they are read as",
        "The sentence says what is done with them; write them again if that is not what they mean.",
        3,
    ),
    "two ids": Kind(
        "One object goes by two ids",
        "SAM 2 learns to lose it where the id changes. Give it one id in all of its frames, or"
        " delete the second mask.",
        3,
    ),
    "jumps": Kind(
        "Objects jump from one frame to the next",
        "Often an id went to another object, or a frame is missing. Correct the ids, or split the"
        " video where its recording was cut.",
        2,
    ),
    "gaps": Kind(
        "Objects are missing for a moment",
        "If the object is visible in between, add the mask: without it, SAM 2 learns that the"
        " object is gone. If something hides it, all is well.",
        2,
    ),
    "classes": Kind(
        "Classes are missing or rare",
        "Add videos of these classes to training, or move some from one split to the other with"
        " data.train_list and data.val_list.",
        2,
    ),
    "whole": Kind(
        "Objects fill the whole frame",
        "This is usually the background, labelled as an object. If the id stands for pixels to"
        " ignore, set data.ignore_id.",
        2,
    ),
    "tiny": Kind(
        "Objects are too small for the model",
        "Raise model.image_size, cut the frames to where the objects are, or leave these out.",
        2,
    ),
    "brief": Kind(
        "Objects are there for one frame alone",
        "Often a slip of the pen or of a tool that filled in frames. Delete the mask, or annotate"
        " the object in its other frames.",
        1,
    ),
    "slips": Kind(
        "Masks have specks or holes",
        "Remove the parts that are smaller than the sentence says and fill such holes; annotation"
        " tools have a brush for it. A few of them do no harm.",
        1,
    ),
}


@dataclass(frozen=True)
class View:
    """One picture of what was found.

    Attributes:
        split: Which split.
        video: The video's index in its reader.
        place: Which of its annotated frames.
        objects: Ids to point at; empty: none.
        masks: How masks are painted: ``filled``, as ``outlines``, or ``none``.
        frame: By how many annotated frames another one is below the masks.
        shift: (x, y) by which they are moved, as a share of the frame's width.
        spot: (x, y) of the frame that is enlarged; None: the whole frame is shown.
        reach: How far around the spot, in pixels of the frame.
        note: What the picture is.
    """

    split: str
    video: int
    place: int
    objects: tuple[int, ...] = ()
    masks: str = "filled"
    frame: int = 0
    shift: tuple[float, float] = (0.0, 0.0)
    spot: Optional[tuple[int, int]] = None
    reach: int = 0
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """Something unusual.

    Attributes:
        kind: One of `KINDS`.
        video: (split, index in its reader).
        text: What, in one sentence that begins with an object or with nothing before it.
        weight: How much of it, beside others of its kind.
        views: What shows it.
    """

    kind: str
    video: tuple[str, int]
    text: str
    weight: float
    views: tuple[View, ...]


class _Video:
    """A video's numbers by object, as the rules take them.

    Attributes:
        tracks: {object id: its `ROW`s in the order of the frames}.
    """

    def __init__(self, scan: VideoScan, split: str) -> None:
        self.scan, self.split = scan, split
        self.key = split, scan.video
        order = np.argsort(scan.rows["object"], kind="stable")
        ids, starts = np.unique(scan.rows["object"][order], return_index=True)
        parts = np.split(scan.rows[order], starts[1:]) if len(ids) else []
        self.tracks = dict(zip(ids.tolist(), parts, strict=True))
        self.number = dict(zip(scan.places, scan.numbers, strict=True))
        (self.size, _), *_ = scan.sizes.most_common(1) or [((1, 1), 0)]

    def view(self, place: int, *objects: int, **how: object) -> View:
        return View(self.split, self.scan.video, int(place), tuple(map(int, objects)), **how)  # type: ignore[arg-type]

    def find(self, kind: str, text: str, weight: float, *views: View) -> Finding:
        return Finding(kind, self.key, text, weight, views)


def side_at_model(area: float, size: tuple[int, int], image_size: int) -> float:
    """Return the side of the square that an object of a frame of `size` fills at the model's."""
    return float((area / (size[0] * size[1])) ** 0.5 * image_size)


def find_problems(
    scan: VideoScan, split: str, image_size: int, is_category_layout: bool
) -> list[Finding]:
    """Return what is unusual in a video.

    Args:
        scan: What was measured.
        split: Its split.
        image_size: ``model.image_size``.
        is_category_layout: Its objects are categories, which may be several things at a time.
    """
    video = _Video(scan, split)
    found = [*(_late(video) or _shifted(video)), *_files(video), *_overlapping(video)]
    for key, rows in video.tracks.items():
        found += [*_sizes(video, key, rows, image_size), *_slips(video, key, rows)]
        found += [*_gaps(video, key, rows), *_brief(video, key, rows)]
        found += _jumps(video, key, rows, is_category_layout)
    return [*found, *_handovers(video)]


def _late(video: _Video) -> list[Finding]:
    scan = video.scan
    offset = find_offset(scan.at_own, scan.beside)
    if offset is None:
        return []
    word = "next" if offset > 0 else "previous"
    text = (
        f"the masks fit the {word} annotated frame, in {len(scan.at_own)} frames looked at: the"
        " numbers of frames and masks differ"
    )
    place = _middle_with_masks(video)
    place = min(max(place, 1), scan.num_frames - 2)
    views = (
        video.view(place, masks="outlines", note="as it is read"),
        video.view(place, masks="outlines", frame=offset, note=f"on the {word} frame"),
    )
    return [video.find("shifted", text, 1.0, *views)]


def _middle_with_masks(video: _Video) -> int:
    masked = np.unique(video.scan.rows["place"])
    return int(masked[len(masked) // 2]) if len(masked) else 0


def _shifted(video: _Video) -> list[Finding]:
    scan = video.scan
    shift = find_shift(scan.edges, scan.edge_width)
    if shift is None:
        return []
    x, y = round(shift.x * video.size[0]), round(shift.y * video.size[0])
    where = " and ".join(
        f"{abs(amount)} pixels {word}"
        for amount, word in ((x, "right" if x > 0 else "left"), (y, "down" if y > 0 else "up"))
        if amount
    )
    text = (
        f"the edges of the frames lie {where} of the outlines, in"
        f" {round(shift.share * len(scan.edges))} of {len(scan.edges)} frames looked at"
    )
    place = _middle_with_masks(video)
    views = (
        video.view(place, masks="outlines", note="as it is read"),
        video.view(
            place, masks="outlines", shift=(shift.x, shift.y), note="masks moved to the edges"
        ),
    )
    return [video.find("shifted", text, (shift.x**2 + shift.y**2) ** 0.5, *views)]


def _files(video: _Video) -> Iterator[Finding]:
    texts: dict[str, list[int]] = defaultdict(list)
    for place, remark in video.scan.remarks:
        texts[remark.text].append(place)
    for text, places in texts.items():
        more = f" (and {len(set(places)) - 1} more frames)" if len(set(places)) > 1 else ""
        first = places[0]
        told = f"frame {video.number[first]}{more}: {text}"
        yield video.find("files", told, len(places), video.view(first))


def _overlapping(video: _Video) -> Iterator[Finding]:
    pairs: dict[tuple[int, int], list[tuple[float, int]]] = defaultdict(list)
    for place, a, b, iou in video.scan.overlaps:
        pairs[a, b].append((iou, place))
    for (a, b), where in pairs.items():
        iou, place = max(where)
        text = (
            f"objects {a} and {b} are the same pixels in {_frames(len(where))} (IoU {iou:.2f} in"
            f" frame {video.number[place]})"
        )
        yield video.find("two ids", text, len(where), video.view(place, a), video.view(place, b))


def _sizes(video: _Video, key: int, rows: np.ndarray, image_size: int) -> Iterator[Finding]:
    largest = rows[rows["area"].argmax()]
    side = side_at_model(int(largest["area"]), video.size, image_size)
    spot = _centre(largest)
    if side < _TINY_SIDE:
        text = (
            f"object {key} has no more than {largest['area']} pixels in any of"
            f" {_frames(len(rows))}: {side:.1f} x {side:.1f} at model.image_size={image_size}"
        )
        reach = max(24, 3 * int(max(largest["w"], largest["h"])))
        place = int(largest["place"])
        yield video.find(
            "tiny", text, 1 / side, video.view(place, key),
            video.view(place, key, spot=spot, reach=reach, note="enlarged"),
        )  # fmt: skip
    shares = rows["area"] / (video.size[0] * video.size[1])
    if (shares > _WHOLE).mean() >= _MOST_FRAMES:
        text = f"object {key} fills {np.median(shares):.0%} of {_frames(len(rows))}"
        yield video.find("whole", text, float(shares.mean()), video.view(largest["place"], key))


def _slips(video: _Video, key: int, rows: np.ndarray) -> Iterator[Finding]:
    bad = rows[rows["specks"] + rows["holes"] > 0]
    if not len(bad):
        return
    worst = bad[(bad["specks"] + bad["holes"]).argmax()]
    counts = [
        counted(int(worst[name]), word)
        for name, word in (("specks", "speck"), ("holes", "hole"))
        if worst[name]
    ]
    limit = speck_limit(*video.size)
    text = (
        f"object {key} has {' and '.join(counts)} of at most {limit} pixels in frame"
        f" {video.number[int(worst['place'])]}, and some in {len(bad)} of {_frames(len(rows))}"
    )
    place, spot = int(worst["place"]), (int(worst["spot_x"]), int(worst["spot_y"]))
    reach = max(12, 6 * round(limit**0.5))
    yield video.find(
        "slips", text, len(bad) / len(rows), video.view(place, key),
        video.view(place, key, spot=spot, reach=reach, note="one of them, enlarged"),
    )  # fmt: skip


def _gaps(video: _Video, key: int, rows: np.ndarray) -> Iterator[Finding]:
    read = np.array(video.scan.places)
    before, after = rows[:-1], rows[1:]
    missing = read.searchsorted(after["place"]) - read.searchsorted(before["place"]) - 1
    same = box_ious(before, after) >= _SAME_PLACE
    gaps = np.flatnonzero((missing > 0) & (missing <= _LONGEST_GAP) & same)
    if not len(gaps):
        return
    first = gaps[0]
    start, end = int(before["place"][first]), int(after["place"][first])
    absent = int(read[read.searchsorted(start) + 1])
    more = f", and {counted(len(gaps) - 1, 'more time')}" if len(gaps) > 1 else ""
    text = (
        f"object {key} is missing in frame {video.number[absent]} and is in the same place in"
        f" frames {video.number[start]} and {video.number[end]}{more}"
    )
    views = video.view(start, key), video.view(absent), video.view(end, key)
    yield video.find("gaps", text, len(gaps), *views)


def _brief(video: _Video, key: int, rows: np.ndarray) -> Iterator[Finding]:
    scan = video.scan
    if len(rows) > 1 or scan.num_frames < 3 or len(scan.places) < scan.num_frames:
        return
    place = int(rows["place"][0])
    beside = place + 1 if place + 1 < scan.num_frames else place - 1
    shown = sorted((place, beside))
    text = f"object {key} is there in frame {video.number[place]} alone, of {scan.num_frames}"
    views = [video.view(at, *([key] if at == place else [])) for at in shown]
    yield video.find("brief", text, 1.0, *views)


def _jumps(
    video: _Video, key: int, rows: np.ndarray, is_category_layout: bool
) -> Iterator[Finding]:
    before, after = rows[:-1], rows[1:]
    near = after["place"] == before["place"] + 1
    before, after = before[near], after[near]
    if not len(before):
        return
    # how much it moved, in its own size, and how much it grew or shrank
    centres = [np.stack(_centre(part), -1) for part in (before, after)]
    size = np.sqrt(np.maximum(_box_area(before), _box_area(after)))
    moved = np.linalg.norm(centres[1] - centres[0], axis=-1) / size
    grown = np.abs(np.log(after["area"] / before["area"]))
    far = (moved > _JUMP_SIZES) & (box_ious(before, after) == 0) & _unusual(moved)
    changed = (grown > np.log(_JUMP_FACTOR)) & _unusual(grown)
    changed &= np.minimum(before["area"], after["area"]) >= _FEWEST_PIXELS
    changed &= ~_touches_border(before, video.size) & ~_touches_border(after, video.size)
    if is_category_layout:
        changed[:] = False
    jumps = np.flatnonzero(far | changed)
    if not len(jumps):
        return
    worst = jumps[(moved * far + grown * changed)[jumps].argmax()]
    start, end = before[worst], after[worst]
    what = (
        f"moves by {moved[worst]:.1f} times its size"
        if far[worst]
        else f"goes from {start['area']} to {end['area']} pixels"
    )
    more = f", and {counted(len(jumps) - 1, 'more time')}" if len(jumps) > 1 else ""
    places = int(start["place"]), int(end["place"])
    text = (
        f"object {key} {what} from frame {video.number[places[0]]} to"
        f" {video.number[places[1]]}{more}"
    )
    yield video.find("jumps", text, len(jumps), *(video.view(place, key) for place in places))


def _unusual(changes: np.ndarray) -> np.ndarray:
    """Return which changes are much larger than the usual one; of two or less each may be."""
    if len(changes) < 3:
        return np.ones(len(changes), bool)
    return changes > _UNUSUAL * np.median(changes)


def _handovers(video: _Video) -> Iterator[Finding]:
    begins = defaultdict(list)
    for key, rows in video.tracks.items():
        begins[int(rows["place"][0])].append(key)
    for key, rows in video.tracks.items():
        last = rows[-1]
        for other in begins[int(last["place"]) + 1]:
            first = video.tracks[other][0]
            ratio = float(first["area"] / last["area"])
            alike = 1 / _ALIKE_SIZE <= ratio <= _ALIKE_SIZE
            if not alike or float(box_ious(last, first)) < _HANDOVER:
                continue
            places = int(last["place"]), int(first["place"])
            text = (
                f"object {key} ends in frame {video.number[places[0]]}, and object {other} begins"
                f" in its place in frame {video.number[places[1]]}"
            )
            weight = float(len(rows) + len(video.tracks[other]))
            views = video.view(places[0], key), video.view(places[1], other)
            yield video.find("two ids", text, weight, *views)


def find_classes(
    counts: dict[str, dict[str, int]],
    examples: dict[tuple[str, str], View],
    training: str,
    val: str,
) -> list[Finding]:
    """Return which classes one of two splits lacks, or has few of in training.

    Args:
        counts: {split: {class: objects}}.
        examples: {(split, class): a picture of one}.
        training: The split that is trained on.
        val: The split that is validated.
    """
    found = []
    for name in sorted({*counts[training], *counts[val]}):
        trained, validated = (counts[split].get(name, 0) for split in (training, val))
        if trained >= _RARE and validated:
            continue
        if not trained:
            text, split = (
                f"{name}: {counted(validated, 'object')} in validation, none in training",
                val,
            )
        elif not validated:
            text, split = (
                f"{name}: {counted(trained, 'object')} in training, none in validation",
                training,
            )
        else:
            text = f"{name}: {counted(trained, 'object')} in training, {validated} in validation"
            split = training
        view = examples[split, name]
        weight = float(validated) if not trained else 1 / (1 + trained)
        found.append(Finding("classes", (split, view.video), text, weight, (view,)))
    return found


def rank(findings: Sequence[Finding], num_videos: int) -> list[tuple[str, list[Finding]]]:
    """Return the findings by kind, the most harmful kinds first, and in each the worst first.

    Among kinds that do the same harm, the one that concerns more of the `num_videos` comes first.
    """
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding)

    def place(kind: str) -> tuple[float, float, int]:
        share = len({finding.video for finding in by_kind[kind]}) / max(num_videos, 1)
        return -KINDS[kind].harm, -share, list(KINDS).index(kind)

    return [
        (kind, sorted(by_kind[kind], key=lambda finding: -finding.weight))
        for kind in sorted(by_kind, key=place)
    ]


def _centre(row: np.ndarray) -> tuple:
    return row["x"] + row["w"] // 2, row["y"] + row["h"] // 2


def _box_area(rows: np.ndarray) -> np.ndarray:
    return rows["w"].astype(np.int64) * rows["h"]


def _touches_border(rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    right, bottom = rows["x"] + rows["w"], rows["y"] + rows["h"]
    inside = (rows["x"] > 0) & (rows["y"] > 0) & (right < size[0]) & (bottom < size[1])
    return ~inside


def _frames(count: int) -> str:
    return counted(count, "frame")
