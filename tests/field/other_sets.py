"""Data sets of the formats that other tools write, with the content of ``write_set``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from field_helpers import Made, encode, label_map, save_frame, write_set
from PIL import Image

VIDEOS = ("a", "b")


def save_colors(path: Path, labels: np.ndarray) -> None:
    colors = np.array([[0, 0, 0], [128, 0, 0], [255, 0, 255]], np.uint8)
    Image.fromarray(colors[labels]).save(path, format="PNG")


def save_16_bits(path: Path, labels: np.ndarray) -> None:
    Image.fromarray(labels.astype(np.uint16) * 1001).save(path, format="PNG")


def write_tracks(root: Path, num_frames: int) -> Made:
    made = write_set(root, "coco_video", num_frames=num_frames)
    made.fields["objects"] = "instances"
    return made.edit(lambda content: [_track(item) for item in content["annotations"]])


def _track(item: dict) -> None:
    item["attributes"] = {"track_id": 7 * item["category_id"]}


def write_images(root: Path, num_frames: int) -> Made:
    made = write_set(root, "coco_video", num_frames=num_frames)
    made.edit(lambda content: [image.pop("video_id") for image in content["images"]])
    made.source = "coco_images"
    return made


def write_youtube_vis(root: Path, num_frames: int) -> Made:
    made = Made(root, "youtube_vis")
    labels = [label_map(1, 2, t=t) for t in range(num_frames)]
    videos, annotations = [], []
    for k, name in enumerate(VIDEOS):
        names = [f"{name}/{t:05d}.jpg" for t in range(num_frames)]
        (made.frames / name).mkdir(parents=True)
        for t, file_name in enumerate(names):
            save_frame(made.frames / file_name, t)
        size = {"height": labels[0].shape[0], "width": labels[0].shape[1]}
        videos.append({"id": k, "file_names": names, "length": num_frames, **size})
        annotations += [
            {"id": 2 * k + v, "video_id": k, "category_id": 1,
             "segmentations": [encode(values == v) for values in labels[:-1]] + [None]}
            for v in (1, 2)
        ]  # fmt: skip
    content = {"videos": videos, "annotations": annotations}
    made.json.write_text(json.dumps(content | {"categories": [{"id": 1, "name": "tool"}]}))
    return made


def write_sa1b(root: Path, num_frames: int) -> Made:
    for t in range(num_frames):
        save_frame(root / f"sa_{t}.jpg", t)
        values = label_map(1, 2, t=t)
        annotations = [{"id": v, "segmentation": encode(values == v)} for v in (1, 2)]
        content = {"image": {"image_id": t}, "annotations": annotations}
        (root / f"sa_{t}.json").write_text(json.dumps(content))
    return Made(root, "sa1b", {"image_folder": ".", "annotation_folder": "."})


def _write_mots(root: Path, folder: str, stem: str, num_frames: int) -> None:
    for part in ("images", "instances"):
        (root / part / folder).mkdir(parents=True, exist_ok=True)
    for t in range(num_frames):
        save_frame(root / "images" / folder / f"{stem}{t:06d}.jpg", t)
        mask = label_map(1, 2, t=t)
        save_16_bits(root / "instances" / folder / f"{stem}{t:06d}.png", mask)


def write_mots(root: Path, num_frames: int) -> Made:
    for name in VIDEOS:
        _write_mots(root, name, "", num_frames)
    return Made(root, "mots", {"image_folder": "images", "annotation_folder": "instances"})


def write_cvat_mots(root: Path, num_frames: int) -> Made:
    _write_mots(root / "default", "", "frame_", num_frames)
    (root / "default" / "instances" / "labels.txt").write_text("hook\nclip\n")
    return Made(root, "mots", {"image_folder": "images", "annotation_folder": "instances"})


OTHER_SETS: dict[str, Callable[[Path, int], Made]] = {
    "colours": lambda root, n: write_set(root, num_frames=n, mask=save_colors),
    "16 bits": lambda root, n: write_set(root, num_frames=n, mask=save_16_bits),
    "tracks": write_tracks,
    "coco_images": write_images,
    "youtube_vis": write_youtube_vis,
    "sa1b": write_sa1b,
    "mots": write_mots,
    "mots of CVAT": write_cvat_mots,
}


def as_auto(made: Made) -> Made:
    """Leave it to the program to find out what a data set is."""
    fields: dict[str, Any] = {}
    return Made(made.root, "auto", fields)
