"""YouTube-VIS JSON: an annotation is an object, with a mask or null for each frame of its video."""

from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any

from ...config import DataConfig
from .coco import (
    CocoFile,
    CocoReader,
    CocoVideo,
    check_files_apart,
    needed_fields,
    open_coco,
    read_categories,
    told_size,
    without_crowds,
)
from .files import DataError


def read_youtube_vis(path: str, setting: str, data: DataConfig) -> CocoReader:
    """Read YouTube-VIS, OVIS or SAM 3's SA-Co/VEval JSON; the objects of a video count from 1.

    SAM 3 gives each object a `noun_phrase`, which is its name then, and otherwise its category is.

    Args:
        path: The JSON file.
        setting: How the user named it, e.g. ``data.train_annotations=a.json``.
        data: `data.image_root`, `data.max_image_pixels`.

    Raises:
        DataError: The file is missing or not YouTube-VIS, an annotation has more or fewer masks
            than its video has frames, two frames are one file, or a path leaves
            `data.image_root`.
    """
    file = open_coco(path, setting, data, ("videos", "annotations", "categories"))
    with needed_fields(setting, "youtube_vis"):
        categories = read_categories(file)
        annotations = without_crowds(file, _group_by_video(file, categories))
        names = _unique_names(file.content["videos"])
        videos = [
            _read_video(file, name, video, annotations.get(video["id"], []), categories)
            for name, video in zip(names, file.content["videos"], strict=True)
        ]
        check_files_apart(file, videos)
    return CocoReader(file, sorted(videos, key=lambda video: video.name), data, categories)


def _read_video(
    file: CocoFile, name: str, video: dict, items: list[dict], categories: dict[Any, str]
) -> CocoVideo:
    called = [item.get("noun_phrase") or categories[item["category_id"]] for item in items]
    found = CocoVideo(name, {k + 1: str(text) for k, text in enumerate(called)})
    for item in items:
        if len(item["segmentations"]) != len(video["file_names"]):
            raise DataError(
                f"{file.setting} has an annotation {item.get('id')!r} with"
                f" {len(item['segmentations'])} masks, expected one or null for each of the"
                f" {len(video['file_names'])} frames of video {name!r}"
            )
    for t, file_name in enumerate(video["file_names"]):
        masks = [(k + 1, item["segmentations"][t]) for k, item in enumerate(items)]
        # null means that the object is not there
        seen = [(key, mask) for key, mask in masks if mask not in (None, [])]
        found.add_frame(t, file.image_path(file_name, None, name), told_size(video), seen)
    return found


def _group_by_video(file: CocoFile, categories: dict[Any, str]) -> dict[Any, list[dict]]:
    """Return {video id: its annotations}."""
    videos = file.content["videos"]
    ids = {video["id"] for video in videos}
    if len(ids) < len(videos):
        raise DataError(f"{file.setting} has two videos with the same id")
    grouped = defaultdict(list)
    for item in file.content["annotations"]:
        for key, known, what in (
            (item["video_id"], ids, "video"),
            (item["category_id"], categories, "category"),
        ):
            if key not in known:
                raise DataError(
                    f"{file.setting} has an annotation of {what} {key!r}, which it does not list"
                )
        grouped[item["video_id"]].append(item)
    return dict(grouped)


def _unique_names(videos: list[dict]) -> list[str]:
    """Return the videos' names, their folders or their ids: the first that tell them apart."""
    folders = [
        PurePosixPath(str(next(iter(video["file_names"]), "")).replace("\\", "/")).parent.name
        for video in videos
    ]
    titles = [str(video.get("video_name") or video.get("name") or "") for video in videos]
    for names in (titles, folders):
        if all(names) and len(set(names)) == len(names):
            return names
    return [str(video["id"]) for video in videos]
