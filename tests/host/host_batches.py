"""Batches of a host with a category layout, and outputs that it merged into categories: seeded.

Nothing here needs the training program. Prompts are placed on the panel first, apart from each
other, so that each of them can be measured on a sheet.
"""

import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from reference import NUMBER_REACH, REACH

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FORMS = ("only None", "absent", "empty", "official", "several None", "None first", "None last")


@dataclass
class Case:
    """One batch and what a host returns beside it.

    `images` [B][T] are the frames as they are on a panel, uint8.
    """

    batch: SimpleNamespace
    outs: list
    obj_to_cat: list | None
    images: list
    panel_size: int
    features: set = field(default_factory=set)

    @property
    def videos_of_rows(self):
        return self.batch.obj_to_frame_idx[0, :, 1].tolist()


def make_batch(frames, num_slots, masks=None):
    """A batch of `frames` [T, B, H, W, 3] uint8 with N slots per video; identifiers (b, n, t)."""
    num_frames, num_videos, height, width, _ = frames.shape
    num_rows = num_videos * num_slots
    if masks is None:
        masks = np.zeros((num_frames, num_rows, height, width), bool)
    t, row = torch.meshgrid(torch.arange(num_frames), torch.arange(num_rows), indexing="ij")
    video, slot = row // num_slots, row % num_slots
    images = (frames / 255 - MEAN) / STD
    return SimpleNamespace(
        img_batch=torch.from_numpy(images).permute(0, 1, 4, 2, 3).float().contiguous(),
        masks=torch.from_numpy(masks),
        obj_to_frame_idx=torch.stack([t, video], -1).int(),
        metadata=SimpleNamespace(unique_objects_identifier=torch.stack([video, slot, t], -1)),
    )


def clicks(coords, labels):
    """``point_inputs`` of K rows: coords [K, P, 2], labels [K, P]."""
    labels = torch.as_tensor(labels, dtype=torch.int32)
    coords = torch.from_numpy(np.array(coords, np.float32)).reshape(*labels.shape, 2)
    return {"point_coords": coords, "point_labels": labels}


class Places:
    """Finds room on one panel of (h, w) pixels for markers that must not touch."""

    def __init__(self, rng, height, width):
        self.rng, self.height, self.width = rng, height, width
        self.taken = []

    def find(self, height, width):
        """The corner of a free area, or None where there is none."""
        for _ in range(30):
            if height > self.height or width > self.width:
                return None
            y = self.rng.uniform(0, self.height - height)
            x = self.rng.uniform(0, self.width - width)
            area = (y, x, y + height, x + width)
            if all(apart(area, other) for other in self.taken):
                self.taken.append(area)
                return y, x
        return None

    def click(self, numbered):
        """The centre (x, y) of a marker, or None."""
        reach = NUMBER_REACH if numbered else REACH
        found = self.find(4 * REACH if numbered else 2 * REACH, 2 * reach)
        if found is None:
            return None
        return found[1] + reach, found[0] + (2 * REACH if numbered else REACH)

    def box(self):
        """Two corners (x0, y0, x1, y1), or None."""
        height, width = self.rng.uniform(12, 40), self.rng.uniform(12, 40)
        found = self.find(height + 10, width + 10)
        if found is None:
            return None
        y, x = found[0] + 5, found[1] + 5
        return x, y, x + width, y + height


def apart(one, other):
    return one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]


def make_case(seed):
    pick, rng = random.Random(seed), np.random.default_rng(seed)
    num_videos, num_slots = pick.choice([1, 1, 2, 2, 3]), pick.randint(1, 5)
    num_frames = pick.randint(1, 4)
    height, width = pick.choice([(96, 128), (128, 128), (128, 192), (192, 96), (160, 160)])
    # Panel pixels per model pixel.
    scale = pick.choice([0.5, 1, 2])
    base = (height // 2, width // 2) if scale == 2 else (height, width)
    small = rng.integers(0, 256, (num_frames, num_videos, *base, 3), np.uint8)
    repeat = 2 if scale == 0.5 else 1
    case = Case(
        batch=make_batch(small.repeat(repeat, 2).repeat(repeat, 3), num_slots),
        outs=[],
        obj_to_cat=None,
        images=[list(small[:, video].repeat(height // base[0], 1).repeat(height // base[0], 2))
                for video in range(num_videos)],
        panel_size=max(height, width),
        features={f"B = {num_videos}", f"scale {scale}"},
    )  # fmt: skip
    num_rows = num_videos * num_slots
    num_prompts = choose_rows(pick, case, num_rows)
    kind = pick.choice(["clicks", "clicks", "clicks", "boxes", "clicks and boxes", "masks"])
    form = pick.choice(FORMS)
    for t in range(num_frames):
        out = {"pred_masks_high_res": torch.full((num_rows, 1, *case.batch.masks.shape[-2:]), -4.0)}
        out |= {"point_inputs": None, "mask_inputs": None, "multistep_point_inputs": [None]}
        if t == 0 or pick.random() < 0.4:
            count = next(num_prompts)
            places = Places(rng, height, width)
            if kind == "masks":
                out["mask_inputs"] = mask_prompts(pick, rng, count, base, repeat, case.features)
            else:
                if kind != "clicks" and pick.random() < 0.4:
                    out["box_inputs"] = box_entries(places, count, scale, case.features)
                boxes = kind != "clicks" and out.get("box_inputs") is None
                if kind != "boxes" or boxes:
                    out |= click_prompts(
                        pick, places, count, scale, form, (kind != "boxes", boxes), case.features
                    )
        elif form in ("absent", "empty"):
            out["multistep_point_inputs"] = []
        if form == "absent":
            del out["multistep_point_inputs"]
        case.outs.append(out)
    return case


def choose_rows(pick, case, num_rows):
    """Choose how many prompt rows each frame has, one number after the other."""
    kind = pick.choice(["obj_to_cat", "obj_to_cat", "rows", "components", "differ"])
    case.features.add(kind)
    count = num_rows
    if kind in ("obj_to_cat", "components"):
        count = pick.choice([num_rows, pick.randint(1, num_rows + 3)])
    if kind == "obj_to_cat":
        case.obj_to_cat = [pick.randrange(num_rows) for _ in range(count)]
    while True:
        yield count
        if kind == "differ":
            count = pick.randint(1, num_rows + 2)


def click_prompts(pick, places, count, scale, form, kinds, features):
    """``point_inputs`` and ``multistep_point_inputs`` of one frame in one of the forms."""
    with_clicks, with_boxes = kinds
    columns = []
    for _ in range(pick.randint(1, 2) if with_clicks else 0):
        columns.append(click_column(pick, places, count, scale, False, features))
    if with_boxes:
        columns += box_columns(pick, places, count, scale, features)
    initial = joined(columns)
    features.add(form)
    if form in ("only None", "several None", "absent", "empty"):
        steps = {"only None": [None], "several None": [None, None]}.get(form, [])
        return {"point_inputs": initial, "multistep_point_inputs": steps}
    steps = [initial]
    if form == "None first":
        # Corrected without having been prompted.
        initial, steps, columns = None, [None], []
    for _ in range(pick.randint(1, 2)):
        columns.append(click_column(pick, places, count, scale, True, features))
        steps.append(joined(columns))
        features.add("corrections")
    if form == "None last":
        steps.append(None)
    return {"point_inputs": initial, "multistep_point_inputs": steps}


def joined(columns):
    """[K, P, 2] coordinates and [K, P] labels of P columns of K."""
    coords, labels = zip(*columns, strict=True)
    return clicks(np.stack(coords, 1), np.stack(labels, 1))


def click_column(pick, places, count, scale, numbered, features):
    coords, labels = np.zeros((count, 2)), np.full(count, -1)
    for row in range(count):
        place = places.click(numbered) if pick.random() < 0.8 else None
        if place is None:
            features.add("padding")
            continue
        coords[row], labels[row] = model_pixels(place, scale), pick.choice([1, 1, 0])
    return coords, labels


def box_columns(pick, places, count, scale, features):
    coords, labels = np.zeros((2, count, 2)), np.full((2, count), -1)
    for row in range(count):
        box = places.box() if pick.random() < 0.9 else None
        if box is None:
            features.add("padding")
            continue
        features.add("boxes as labels")
        coords[:, row], labels[:, row] = model_pixels(box, scale).reshape(2, 2), (2, 3)
    return list(zip(coords, labels, strict=True))


def box_entries(places, count, scale, features):
    """``box_inputs`` [K, 4], or None where there is no room for so many."""
    boxes = [places.box() for _ in range(count)]
    if None in boxes:
        places.taken.clear()
        return None
    features.add("box_inputs")
    return torch.from_numpy(np.stack([model_pixels(box, scale) for box in boxes])).float()


def mask_prompts(pick, rng, count, base, repeat, features):
    """``mask_inputs`` [K, 1, H, W] of components."""
    features.add("mask prompts")
    masks = np.zeros((count, *base), bool)
    for mask in masks:
        if pick.random() < 0.9:
            y, x = rng.integers(0, base[0] - 4), rng.integers(0, base[1] - 4)
            mask[y : y + rng.integers(2, 30), x : x + rng.integers(2, 30)] = True
    return torch.from_numpy(masks.repeat(repeat, 1).repeat(repeat, 2))[:, None].float()


def model_pixels(xy, scale):
    return np.asarray(xy) / scale - 0.5
