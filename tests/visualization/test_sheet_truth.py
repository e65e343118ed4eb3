"""Sheets of generated batches against the slow reference of `sheet_reference`."""

import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import sheet_reference as reference
import torch
from scenes import make_batch

from core.official import import_sam2
from core.visualization.drawing.canvas import Canvas
from core.visualization.drawing.sheet import render_sheet
from core.visualization.palette import category_color
from core.visualization.snapshot import Moment, SnapshotOptions, take_snapshot

import_sam2()

NUM_BATCHES, PER_TEST = 300, 25


@dataclass
class Case:
    batch: object
    outs: list
    video: int
    max_frames: int
    stride: int
    num_categories: int | None
    panel_size: int
    obj_to_cat: list | None
    original: tuple | None = None
    features: set = field(default_factory=set)

    def clip(self, outs=None):
        options = SnapshotOptions(
            self.max_frames, self.stride, self.num_categories, self.panel_size
        )
        snapshot = take_snapshot(
            self.batch,
            self.outs if outs is None else outs,
            Moment("train", 7),
            options,
            [self.video],
            self.obj_to_cat,
        )
        return snapshot.clips()[0]

    def sheet(self, outs=None):
        return render_sheet(self.clip(outs), panel_size=self.panel_size)

    def expected(self):
        return reference.expected_sheet(
            self.batch,
            self.outs,
            self.video,
            max_frames=self.max_frames,
            stride=self.stride,
            num_categories=self.num_categories,
            panel_size=self.panel_size,
            obj_to_cat=self.obj_to_cat,
            original=self.original,
        )


def blob(rng, height, width):
    """A rectangle or an ellipse, anywhere, also over the border."""
    ys, xs = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0, height), rng.uniform(0, width)
    ry, rx = rng.uniform(1, height / 2), rng.uniform(1, width / 2)
    if rng.random() < 0.5:
        return (abs(ys - cy) <= ry) & (abs(xs - cx) <= rx)
    return ((ys - cy) / ry) ** 2 + ((xs - cx) / rx) ** 2 <= 1


def make_masks(pick, rng, num_frames, num_rows, height, width, features):
    masks = np.zeros((num_frames, num_rows, height, width), bool)
    for o in range(num_rows):
        kind = pick.choice(["moving", "moving", "moving", "empty", "vanishes", "identical"])
        if kind == "identical" and o == 0:
            kind = "moving"
        features.add(kind if kind != "empty" else "empty masks")
        for t in range(num_frames):
            if kind == "identical":
                masks[t, o] = masks[t, o - 1]
            elif kind == "moving" or (kind == "vanishes" and t == 0):
                masks[t, o] = blob(rng, height, width)
    return masks


def make_logits(pick, rng, mask, slot_empty, features):
    """Logits of one row on one frame: near the truth, far from it, absent or not finite."""
    height, width = mask.shape
    if slot_empty:
        features.add("logits of 0")
        return np.zeros((height, width), np.float32)
    kind = pick.choice(["near", "near", "near", "elsewhere", "absent", "noise", "bad"])
    if kind == "absent":
        features.add("absent at -1024")
        return np.full((height, width), -1024, np.float32)
    inside = mask if kind in ("near", "bad") else blob(rng, height, width)
    logits = np.where(inside, 4.0, -4.0) + rng.normal(0, 2.5, (height, width))
    if kind == "noise":
        logits = rng.normal(0, 1, (height, width))
        logits[rng.random((height, width)) < 0.2] = 0
    if kind == "bad":
        features.add("NaN and inf")
        for value in (math.nan, math.inf, -math.inf):
            logits[rng.random((height, width)) < pick.choice([0.0, 0.1, 1.0])] = value
    return logits.astype(np.float32)


def make_prompts(pick, rng, masks, num_prompts, features):
    """SAM 2's own structure of prompts on each of T frames, for K prompt rows."""
    num_frames, _, height, width = masks.shape
    mode = pick.choice(["point", "bbox", "mask", "mixed clicks"])
    outs = []
    for t in range(num_frames):
        out = {"point_inputs": None, "mask_inputs": None, "multistep_point_inputs": [None]}
        prompted = t == 0 or pick.random() < 0.3
        if mode == "mask":
            if prompted:
                features.add("mask prompts")
                rows = [masks[t, k % masks.shape[1]] for k in range(num_prompts)]
                stacked = np.stack(rows) if rows else np.zeros((0, height, width), bool)
                out["mask_inputs"] = torch.from_numpy(stacked)[:, None]
            outs.append(out)
            continue
        steps = []
        if prompted:
            box = mode == "bbox" or (mode == "mixed clicks" and pick.random() < 0.5)
            steps.append(first_prompt(rng, num_prompts, height, width, box))
            features.add("boxes" if box else "clicks")
        else:
            steps.append(None)
        for _ in range(pick.choice([0, 0, 1, 2, 12])):
            features.add("correction rounds")
            coords, labels = clicks(rng, num_prompts, height, width)
            if steps[-1] is not None:
                coords = torch.cat([steps[-1]["point_coords"], coords], 1)
                labels = torch.cat([steps[-1]["point_labels"], labels], 1)
            elif steps == [None]:
                features.add("corrected without a prompt")
            steps.append({"point_coords": coords, "point_labels": labels})
            if (labels == -1).any():
                features.add("padding")
        out["point_inputs"], out["multistep_point_inputs"] = steps[0], steps
        outs.append(out)
    return outs


def say_as_hosts_do(pick, outs, features):
    """Leave out the rounds of frames that were not corrected, in one form for all frames."""
    form = pick.choice(["official", "only None", "empty", "absent"])
    for out in outs:
        steps = out["multistep_point_inputs"]
        if form == "official" or len(steps) > 1:
            continue
        if steps[0] is not None:
            features.add(f"host: {form}")
        out["multistep_point_inputs"] = [None] if form == "only None" else []
        if form == "absent":
            del out["multistep_point_inputs"]


def clicks(rng, num, height, width):
    coords = rng.uniform(0, 1, (num, 1, 2)) * [width - 1, height - 1]
    if rng.random() < 0.7:
        coords = np.rint(coords)
    labels = rng.choice([1, 0, -1], (num, 1), p=[0.5, 0.35, 0.15])
    return torch.from_numpy(coords.astype(np.float32)), torch.from_numpy(labels.astype(np.int32))


def first_prompt(rng, num, height, width, box):
    if not box:
        coords, labels = clicks(rng, num, height, width)
        return {"point_coords": coords, "point_labels": labels}
    corners = np.sort(rng.uniform(0, 1, (num, 2, 2)), axis=1) * [width - 1, height - 1]
    labels = torch.tensor([[2, 3]] * num, dtype=torch.int32).reshape(num, 2)
    return {
        "point_coords": torch.from_numpy(corners.astype(np.float32)),
        "point_labels": labels,
    }


def make_layout(pick, num_videos, category_layout, features):
    """How many rows each video has."""
    if category_layout:
        count = pick.choice([1, 2, 3, 4, 5]) if pick.random() < 0.95 else 32
        features.add("category layout")
        return [count] * num_videos
    per_video = [pick.choice([0, 1, 2, 3, 4]) for _ in range(num_videos)]
    if pick.random() < 0.04:
        per_video[0] = 32
    features.add("objects per video differ" if len(set(per_video)) > 1 else "official layout")
    return per_video


def make_prompt_rows(pick, num_rows, num_videos, features):
    """How many prompt rows there are in the category layout, and the mask row of each."""
    kind = pick.choice(["rows", "components", "components", "unknown"])
    num_prompts = num_rows
    if kind != "rows":
        num_prompts = pick.randint(1, num_rows + 3)
        features.add("components" if num_prompts != num_rows else "as many components as rows")
    if kind == "components":
        features.add("obj_to_cat")
        return num_prompts, [pick.randrange(num_rows) for _ in range(num_prompts)]
    if num_prompts != num_rows:
        features.add("neutral" if num_videos == 1 else "not assigned")
    return num_prompts, None


def add_predictions(pick, rng, outs, masks, empty_slots, dtype, features):
    """Put logits and scores into the outputs of each frame."""
    num_rows, height, width = masks.shape[1:]
    for t, out in enumerate(outs):
        rows = [
            make_logits(pick, rng, masks[t, o], o in empty_slots, features) for o in range(num_rows)
        ]
        logits = np.stack(rows) if rows else np.zeros((0, height, width), np.float32)
        out["pred_masks_high_res"] = torch.from_numpy(logits)[:, None].to(dtype)
        # A bait: the first step's masks are not what is to be drawn.
        out["multistep_pred_multimasks_high_res"] = [torch.ones(num_rows, 3, height, width)]
        out["multistep_pred_ious"] = [torch.rand(num_rows, 3)]
        out["multistep_object_score_logits"] = [torch.randn(num_rows, 1)]


def spread_in_memory(memory, images, masks, outs):
    """The same values, lying in memory otherwise."""
    if memory == "channels last":
        images = images.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    if memory == "strided":
        images = images.repeat_interleave(2, -1)[..., ::2]
        masks = masks.transpose(-1, -2).contiguous().transpose(-1, -2)
        for out in outs:
            out["pred_masks_high_res"] = out["pred_masks_high_res"].repeat(1, 2, 1, 1)[:, :1]
    return images, masks


def make_identifiers(seed, videos, num_frames, category_layout, features):
    """(video, slot, frame) in the category layout; the data set's own numbers in the other one."""
    pick = random.Random(seed)
    ids = torch.zeros((num_frames, len(videos), 3), dtype=torch.long)
    ids[..., 0] = torch.tensor(videos) + (0 if category_layout else 100)
    for video in set(videos):
        rows = [row for row, owner in enumerate(videos) if owner == video]
        numbers = list(range(len(rows)))
        if not category_layout:
            kind = pick.choice(["small", "small", "sparse", "look alike", "all the same"])
            features.add(f"ids: {kind}")
            numbers = {
                "small": pick.sample(range(1, 40), len(rows)),
                "sparse": pick.sample(
                    [*range(9), 255, 70_000, 2**53 + 1, *range(300, 330)], len(rows)
                ),
                "look alike": pick.sample(
                    [1, 57, 5, 69, 90, 30, 51, 72, *range(100, 130)], len(rows)
                ),
                "all the same": [7] * len(rows),
            }[kind]
        ids[:, rows, 1] = torch.tensor(numbers)
    ids[..., 2] = torch.arange(num_frames)[:, None] * (1 if category_layout else 3)
    return ids


def name_features(case, own, memory, dtype):
    """What is special about a case, as far as its parts did not say."""
    num_frames, num_videos, _, height, width = case.batch.img_batch.shape
    size, ratio = (height, width), max(height, width) / case.panel_size
    features = {memory, str(dtype), "B > 1" if num_videos > 1 else "B = 1"}
    features.add("T = 1" if num_frames == 1 else "T > 1")
    features.add("square" if height == width else "not square")
    features.add("enlarged" if ratio <= 0.5 else "reduced" if ratio > 1 else "as it is")
    if ratio > 1:
        whole = max(size) % case.panel_size == 0
        features.add("whole ratio" if whole else "ratio with a fraction")
    if own in (0, 1, 32):
        features.add(f"C = {own}")
    if case.num_categories is not None:
        features.add("fewer categories" if case.num_categories < own else "more categories")
    return features


def make_case(seed):
    pick, rng = random.Random(seed), np.random.default_rng(seed)
    features = set()
    category_layout = pick.random() < 0.5
    num_videos = pick.choice([1, 1, 2, 3])
    num_frames = pick.choice([1, 2, 3, 4, 6])
    height, width = (pick.choice([16, 24, 31, 32, 48]) for _ in range(2))
    if pick.random() < 0.35:
        sizes = [[64, 64], [96, 96], [96, 64], [64, 96], [50, 96], [96, 32], [70, 45]]
        height, width = pick.choice(sizes)
    panel_size = pick.choice([32, 32, 32, 48, 64])
    per_video = make_layout(pick, num_videos, category_layout, features)
    videos = [video for video, count in enumerate(per_video) for _ in range(count)]
    num_rows = len(videos)
    masks = make_masks(pick, rng, num_frames, num_rows, height, width, features)
    empty_slots = {o for o in range(num_rows) if category_layout and not masks[:, o].any()}
    num_prompts, obj_to_cat = num_rows, None
    if category_layout and num_rows:
        num_prompts, obj_to_cat = make_prompt_rows(pick, num_rows, num_videos, features)
    dtype = pick.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
    outs = make_prompts(pick, rng, masks, num_prompts, features)
    if category_layout:
        say_as_hosts_do(random.Random(seed), outs, features)
    add_predictions(pick, rng, outs, masks, empty_slots, dtype, features)
    images = rng.normal(0.3, 0.7, (num_frames, num_videos, 3, height, width)).astype(np.float32)
    images = torch.from_numpy(images).to(pick.choice([torch.float32, torch.float32, dtype]))
    memory = pick.choice(["contiguous", "channels last", "strided"])
    images, masks = spread_in_memory(memory, images, torch.from_numpy(masks), outs)
    ids = make_identifiers(seed, videos, num_frames, category_layout, features)
    case = Case(
        batch=make_batch(images, masks, videos, ids),
        outs=outs,
        video=pick.randrange(num_videos),
        max_frames=pick.choice([1, 2, 3]),
        stride=pick.choice([1, 1, 2]),
        num_categories=pick.choice([None, None, 2, 6]),
        panel_size=panel_size,
        obj_to_cat=obj_to_cat,
    )
    case.original = tell_original_size(random.Random(seed), case.batch, case.video, features)
    case.features = features | name_features(case, per_video[case.video], memory, dtype)
    return case


def tell_original_size(pick, batch, video, features):
    """Put the size of each original video into the metadata, and return that of one."""
    sizes = [pick.choice([(48, 64), (90, 160), (160, 90)]) for _ in range(batch.img_batch.shape[1])]
    if pick.random() < 0.5 or not (batch.obj_to_frame_idx[0, :, 1] == video).any():
        return None
    features.add("aspect of the video")
    for row, owner in enumerate(batch.obj_to_frame_idx[0, :, 1].tolist()):
        batch.metadata.frame_orig_size[:, row] = torch.tensor(sizes[owner])
    return sizes[video]


class TextSpy:
    """Records what is written on sheets while they are drawn."""

    def __init__(self, monkeypatch):
        self.texts = []
        write = Canvas.write

        def remember(canvas, pieces, *color):
            self.texts += [
                (text, x, y, tuple(color[0]) if color else None) for x, y, text in pieces
            ]
            return write(canvas, pieces, *color)

        monkeypatch.setattr(Canvas, "write", remember)

    def read(self):
        texts, self.texts = self.texts, []
        return texts


@pytest.fixture
def spy(monkeypatch):
    return TextSpy(monkeypatch)


def without_clicks(outs, keep=None, numbered=True):
    """The same outputs with every click column turned into padding, all but `keep`.

    `keep` is (frame, prompt row, columns); without `numbered` it becomes an initial prompt.
    """
    changed = []
    for t, out in enumerate(outs):
        steps = out.get("multistep_point_inputs") or [None]
        if steps == [None] and out["point_inputs"] is not None:
            # A host's form: these are all the clicks.
            labels = torch.full_like(out["point_inputs"]["point_labels"], -1)
            if keep is not None and keep[0] == t:
                _, row, columns = keep
                labels[row, columns] = out["point_inputs"]["point_labels"][row, columns]
            out = {**out, "point_inputs": {**out["point_inputs"], "point_labels": labels}}
        elif steps[-1] is not None:
            labels = torch.full_like(steps[-1]["point_labels"], -1)
            if keep is not None and keep[0] == t:
                _, row, columns = keep
                labels[row, columns] = steps[-1]["point_labels"][row, columns]
            last = {**steps[-1], "point_labels": labels}
            before = steps[:-1] if numbered else []
            out = {**out, "multistep_point_inputs": [*before, last]}
            if not before:
                out["point_inputs"] = last
        changed.append(out)
    return changed


def check_words(case, expected, found, texts):
    """Frame numbers stand above their row, rounds are numbered, undrawn prompts are said."""
    labels = [(text, y) for text, _, y, _ in texts if text.startswith("frame ")]
    assert [text.split(" · ")[0] for text, _ in labels] == [f"frame {n}" for n in expected.numbers]
    for (_, y), top in zip(labels, found.ys, strict=True):
        assert y < top
    numbers = [text for text, _, _, color in texts if color == (255, 255, 255)]
    beside_clicks = [reference.round_labels(prompts).values() for prompts in expected.prompts]
    assert Counter(numbers) == Counter(itertools.chain(*beside_clicks))
    said = " ".join(text for text, _, y, _ in texts if y < labels[0][1])
    if expected.undrawn_prompts:
        listed = ", ".join(map(str, expected.undrawn_prompts))
        assert f"not drawn: {listed}" in said
    else:
        assert "more prompts" not in said


def check_one_marker(case, expected, found, sheet_rng, spy):
    """Switch one prompt on and find it by what changes: place, colour and round number."""
    places = []
    for t in expected.frames:
        steps = case.outs[t].get("multistep_point_inputs") or [None]
        final = case.outs[t]["point_inputs"] if steps == [None] else steps[-1]
        for row, labels in enumerate([] if final is None else final["point_labels"].tolist()):
            places += [(t, row, [c]) for c, label in enumerate(labels) if label in (0, 1)]
            places += [(t, row, [c, c + 1]) for c, label in enumerate(labels) if label == 2]
    if not places:
        return None
    keep = sheet_rng.choice(places)
    alone = Case(**{**case.__dict__, "outs": without_clicks(case.outs, keep)})
    wanted = alone.expected()
    prompts = [p for prompts in wanted.prompts for p in prompts if p.kind != "mask"]
    assert len(prompts) <= 1
    blank = case.sheet(without_clicks(case.outs))
    blank_at = reference.find_panels(blank, expected)
    spy.read()
    sheet = alone.sheet()
    texts = spy.read()
    at = reference.find_panels(sheet, expected)
    changes = []
    for row in range(len(expected.frames)):
        before, after = blank_at.panel(blank, row, 2), at.panel(sheet, row, 2)
        changes.append((before != after).any(-1))
    if not prompts:
        assert not any(change.any() for change in changes)
        return None
    row = expected.frames.index(keep[0])
    assert [change.any() for change in changes] == [i == row for i in range(len(changes))]
    change, panel = changes[row], at.panel(sheet, row, 2)
    (prompt,) = prompts
    numbers = [(text, x, y) for text, x, y, color in texts if color == (255, 255, 255)]
    assert [text for text, _, _ in numbers] == ([str(prompt.round)] if prompt.round else [])
    if prompt.round:
        x, y = reference.click_centre(prompt, expected)
        assert abs(numbers[0][2] + 10 - at.ys[row] - y) <= 10
        assert abs(numbers[0][1] - at.x0 - 2 * at.pitch - x) <= 28
        # The number may lie over the click where a panel is this narrow: leave it away.
        sheet = case.sheet(without_clicks(case.outs, keep, numbered=False))
        panel = reference.find_panels(sheet, expected).panel(sheet, row, 2)
        change = (panel != blank_at.panel(blank, row, 2)).any(-1)
    color = reference.color_of(prompt, wanted)
    if prompt.kind == "point":
        return check_click(prompt, wanted, change, panel, color)
    return check_box(prompt, wanted, change)


def check_click(prompt, expected, change, panel, color):
    x, y = reference.click_centre(prompt, expected)
    height, width = panel.shape[:2]
    if not (9 < x < width - 9 and 9 < y < height - 9):
        return None
    fill = reference.POSITIVE_FILL if prompt.label else reference.NEGATIVE_FILL
    assert ((panel == fill).all(-1) & change).sum() >= 8
    ys, xs = np.nonzero(change)
    offset = max(abs(xs.mean() + 0.5 - x), abs(ys.mean() + 0.5 - y))
    assert offset <= 0.5, f"{prompt} is {offset:.2f} px off"
    # The ring is thin: few of its pixels are not mixed with what is beside them.
    ring = (abs(panel.astype(int) - color) <= 40).all(-1) & change
    assert ring.sum() >= 6, "the ring has another colour"
    return offset


def check_box(prompt, expected, change):
    scale_y, scale_x = reference.scale_of(expected)
    x0, y0, x1, y1 = prompt.xy
    left, right = (x0 + 0.5) * scale_x, (x1 + 0.5) * scale_x
    top, bottom = (y0 + 0.5) * scale_y, (y1 + 0.5) * scale_y
    if right - left < 10 or bottom - top < 10:
        return None
    offset = 0.0
    lines = [
        (change[int((top + bottom) / 2)], (left, right)),
        (change[:, int((left + right) / 2)], (top, bottom)),
    ]
    for line, edges in lines:
        for edge in edges:
            if 2.5 < edge < len(line) - 2.5:
                near = [i + 0.5 for i in np.flatnonzero(line) if abs(i + 0.5 - edge) <= 4]
                offset = max(offset, abs(np.mean(near) - edge))
    assert offset <= 0.5, f"{prompt} is {offset:.2f} px off"
    return offset


def check_score(case, texts):
    """The header's mean IoU is the reference's, and says which frames it is about."""
    num_frames = len(case.outs)
    drawn = list(range(0, num_frames, case.stride))[: case.max_frames]
    mean = reference.expected_mean_iou(
        case.batch, case.outs, case.video, drawn, case.num_categories, case.obj_to_cat
    )
    assert case.clip().mean_iou == pytest.approx(mean, nan_ok=True)
    unprompted = [t for t in range(num_frames) if not reference.got_prompt(case.outs[t])]
    scored = sum(t in unprompted for t in drawn)
    said = f"mean IoU {mean:.3f} over {scored} of {len(unprompted)} unprompted frames"
    if math.isnan(mean):
        said = "no object to score" if scored else "no frame to score"
    assert texts[0][0].endswith(f" · {said}")


def check_case(seed, spy):
    case = make_case(seed)
    expected = case.expected()
    spy.read()
    sheet = case.sheet()
    texts = spy.read()
    found = reference.check_sheet(sheet, expected)
    check_words(case, expected, found, texts)
    check_score(case, texts)
    check_one_marker(case, expected, found, random.Random(seed), spy)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=pytest.mark.long if first >= NUM_BATCHES // 2 else ())
        for first in range(0, NUM_BATCHES, PER_TEST)
    ],
)
def test_sheet_shows_what_the_reference_computes(first, spy):
    for seed in range(first, first + PER_TEST):
        try:
            check_case(seed, spy)
        except Exception as error:
            raise AssertionError(f"batch {seed}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        *(pytest.param(first, marks=pytest.mark.long) for first in range(1000, 4000, 100)),
    ],
)
def test_sheet_shows_what_the_reference_computes_at_length(first, spy):
    for seed in range(first, first + 100):
        try:
            check_case(seed, spy)
        except Exception as error:
            raise AssertionError(f"batch {seed}: {error}") from error


def test_a_frame_of_thirty_mask_prompts_is_compared(spy):
    case = make_case(2117)
    assert sum(prompt.kind == "mask" for prompt in case.expected().prompts[0]) == 30
    check_case(2117, spy)


def test_generated_batches_cover_what_is_claimed():
    half = range(0, NUM_BATCHES, 2)
    seen = Counter(feature for seed in half for feature in make_case(seed).features)
    for feature in (
        "objects per video differ", "category layout", "B > 1", "T = 1", "not square",
        "C = 0", "C = 1", "C = 32", "empty masks", "vanishes", "identical", "absent at -1024",
        "logits of 0", "NaN and inf", "torch.bfloat16", "torch.float16", "channels last",
        "strided", "enlarged", "whole ratio", "ratio with a fraction", "fewer categories",
        "more categories", "clicks", "boxes", "mask prompts", "padding", "correction rounds",
        "corrected without a prompt", "components", "as many components as rows", "obj_to_cat",
        "neutral", "not assigned", "ids: small", "ids: sparse", "ids: look alike",
        "ids: all the same", "host: only None", "host: empty", "host: absent",
    ):  # fmt: skip
        assert seen[feature] >= 3, f"{feature}: {seen[feature]} of {len(half)}"


def square_case(num_rows=1, num_frames=1, num_videos=1, **outs):
    """Grey frames of 64 px, one 32 px square that every row shares and finds."""
    masks = torch.zeros(num_frames, num_rows, 64, 64, dtype=torch.bool)
    masks[..., 16:48, 16:48] = True
    images = torch.rand(
        num_frames, num_videos, 3, 64, 64, generator=torch.Generator().manual_seed(0)
    )
    videos = [o * num_videos // num_rows for o in range(num_rows)]
    frames = [
        {"pred_masks_high_res": torch.where(masks[t], 5.0, -5.0)[:, None], "point_inputs": None}
        | outs
        for t in range(num_frames)
    ]
    return Case(make_batch(images, masks, videos), frames, 0, 4, 1, None, 64, None)


def click(*rows, label=1):
    coords = torch.tensor(rows, dtype=torch.float32)[:, None]
    labels = torch.full(coords.shape[:2], label, dtype=torch.int32)
    return {"point_coords": coords, "point_labels": labels}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_outlines_of_identical_masks_all_stay_visible(count):
    case = square_case(count)
    panel = reference.find_panels(case.sheet(), case.expected()).panel(case.sheet(), 0, 1)
    length = [int((panel == category_color(k)).all(-1).sum()) for k in range(count)]
    assert min(length) >= 124 / count / 3


def test_mask_inside_another_keeps_its_outline():
    case = square_case(2)
    case.batch.masks[:, 1] = False
    case.batch.masks[:, 1, 24:40, 24:40] = True
    panel = reference.find_panels(case.sheet(), case.expected()).panel(case.sheet(), 0, 1)
    assert (panel[24, 24:40] == category_color(1)).all()
    assert (panel[16, 16:48] == category_color(0)).all()


def test_non_finite_logits_are_drawn_as_nothing_and_said(spy):
    case = square_case(2)
    case.outs[0]["pred_masks_high_res"][0, 0, :32] = math.inf
    case.outs[0]["pred_masks_high_res"][1] = math.nan
    reference.check_sheet(case.sheet(), case.expected())
    texts = [text for text, *_ in spy.read()]
    assert any("2 objects have NaN or inf logits, which are not drawn" in t for t in texts)
    assert sum("NaN/inf not drawn" in text for text in texts) == 2


def test_prompts_of_an_undrawn_frame_are_noted_and_not_shown_elsewhere(spy):
    case = square_case(num_frames=4)
    case.max_frames = 2
    case.outs[3] = {**case.outs[3], "multistep_point_inputs": [None, click([32.0, 32.0])]}
    found = reference.check_sheet(case.sheet(), case.expected())
    assert any("more prompts on frames not drawn: 3" in text for text, *_ in spy.read())
    for row in (0, 1):
        assert (found.panel(case.sheet(), row, 2) == found.panel(case.sheet(), row, 0)).all()


def test_prompts_of_frames_drawn_in_the_animation_alone_are_noted_on_the_sheet(spy):
    case = square_case(num_frames=4)
    case.outs[3] = {**case.outs[3], "multistep_point_inputs": [None, click([32.0, 32.0])]}
    options = SnapshotOptions(panel_size=64, draw_all_frames=True)
    snapshot = take_snapshot(case.batch, case.outs, Moment("val", 0), options)
    render_sheet(snapshot.clips()[0].select([0, 1]))
    assert any("more prompts on frames not drawn: 3" in text for text, *_ in spy.read())


def test_header_of_an_animated_clip_says_that_all_frames_were_measured(spy):
    case = square_case(num_frames=4)
    case.outs[0] = {**case.outs[0], "point_inputs": click([32.0, 32.0])}
    case.outs[3]["pred_masks_high_res"].fill_(-5.0)
    for all_frames, said in ((False, "1.000 over 1 of 3"), (True, "0.667 over 3 of 3")):
        options = SnapshotOptions(max_frames=2, panel_size=64, draw_all_frames=all_frames)
        snapshot = take_snapshot(case.batch, case.outs, Moment("val", 0), options)
        render_sheet(snapshot.clips()[0].select([0, 1]))
        header = spy.read()[0][0]
        assert header.endswith(f"mean IoU {said} unprompted frames")


def test_prompt_rows_of_unknown_category_are_neutral_with_one_video():
    case = square_case(2, point_inputs=click([8.0, 8.0], [40.0, 8.0], [8.0, 56.0]))
    panel = reference.find_panels(case.sheet(), case.expected()).panel(case.sheet(), 0, 2)
    assert (panel == reference.NEUTRAL).all(-1).sum() >= 12
    for category in (0, 1):
        assert not (panel == category_color(category)).all(-1).any()


def test_prompt_rows_of_unknown_category_are_not_drawn_with_two_videos_but_said(spy):
    case = square_case(2, num_videos=2, point_inputs=click([8.0, 8.0], [40.0, 8.0], [8.0, 56.0]))
    found = reference.check_sheet(case.sheet(), case.expected())
    assert (found.panel(case.sheet(), 0, 2) == found.panel(case.sheet(), 0, 0)).all()
    said = [text for text, *_ in spy.read()]
    assert any("3 prompts not drawn: their video is unknown" in text for text in said)


def test_scores_with_a_row_per_mask_row_are_the_rows_own_whatever_the_prompts_belong_to():
    case = square_case(
        2,
        point_inputs=click([8.0, 8.0], [40.0, 8.0]),
        multistep_object_score_logits=[torch.tensor([[3.0], [-3.0]])],
    )
    assert case.clip().scores.object_scores.tolist() == [[3.0, -3.0]]
    case.obj_to_cat = [1, 1]
    assert case.clip().scores.object_scores.tolist() == [[3.0, -3.0]]


def test_clicks_told_by_the_steps_alone_are_not_replaced_by_implied_ones():
    case = square_case()
    del case.outs[0]["point_inputs"]
    case.outs[0]["multistep_point_inputs"] = [click([40.0, 20.0], label=0)]
    clip = case.clip()
    assert not clip.prompts_implied
    assert clip.frames[0].prompts[0].labels.tolist() == [0]


def test_number_beside_a_click_at_the_border_leaves_the_click_visible():
    case = square_case()
    case.outs[0]["multistep_point_inputs"] = [None, click([57.0, 30.0])]
    plain = square_case(point_inputs=click([57.0, 30.0]))
    numbered, unnumbered = (
        reference.find_panels(c.sheet(), c.expected()).panel(c.sheet(), 0, 2) for c in (case, plain)
    )
    assert (numbered[:, 50:] == unnumbered[:, 50:]).all()
    assert (numbered[:, :50] != unnumbered[:, :50]).any()


@pytest.mark.parametrize("num_categories", [1, 5])
def test_number_of_categories_other_than_the_rows_keeps_colours(num_categories):
    case = square_case(3)
    case.num_categories = num_categories
    reference.check_sheet(case.sheet(), case.expected())
    assert case.clip().num_left_out == max(0, 3 - num_categories)
