"""COCO-video JSON: one mask slot per category, the usual form of surgical data sets, or tracks."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Optional

from lightning.pytorch.utilities import rank_zero_warn

from ...config import DataConfig
from ...words import counted
from .coco import (
    Annotations,
    CocoFile,
    CocoReader,
    CocoVideo,
    ObjectSegmentation,
    check_files_apart,
    group_annotations,
    needed_fields,
    number_of,
    open_coco,
    read_categories,
    told_size,
    without_crowds,
)
from .files import DataError, name_some, natural_key
from .kinds import hint_at_kind, track_of
from .segmentations import is_missing


def read_coco_video(
    path: str, setting: str, data: DataConfig, categories: Optional[dict[Any, str]] = None
) -> CocoReader:
    """Read COCO-video JSON.

    In the category layout the object ids are the categories' slots 0 .. N-1. Slots follow the
    categories sorted by id; annotations of those beyond `data.num_categories` are left out with a
    warning. With `data.objects=instances` the objects of a video are its tracks, from 1.

    Images without an annotation are taken as frames without objects, with a warning, or left out
    with `data.unlabelled=skip`. Images whose annotations all lack a segmentation are left out,
    because their masks are unknown. Where no image has a `video_id`, tracks tell that there are
    videos, and those are the folders of the images.

    Args:
        path: The JSON file.
        setting: How the user named it, e.g. ``data.train_annotations=a.json``.
        data: `data.image_root`, `data.objects`, `data.num_categories`, `data.unlabelled`,
            `data.max_image_pixels`.
        categories: Categories of the training file, which define the slots; None: this file's.

    Raises:
        DataError: The file is missing or not COCO-video, names categories or images that it does
            not have, calls a category otherwise than `categories` does, gives two frames one file,
            or a path leaves `data.image_root`.
    """
    file = open_coco(path, setting, data, ("images", "annotations", "categories"))
    with needed_fields(setting, "coco_video"):
        own = read_categories(file, categories)
        annotations = group_annotations(file, own)
        if data.objects == "instances":
            annotations = _with_track(file, without_crowds(file, annotations))
            num_categories = None
        else:
            num_categories = data.num_categories or len(own)
            _warn_of_cut_slots(file, annotations, own, num_categories)
        skip_unlabelled = data.unlabelled == "skip"
        if not skip_unlabelled:
            _warn_of_unlabelled(file, annotations)
        videos = []
        for name, images in _name_videos(file, annotations):
            found = [annotations.get(image["id"], []) for image in images]
            segments, names = _objects_of(found, own, num_categories)
            video = CocoVideo(name, names)
            for number, image, items in zip(_frame_numbers(images), images, segments, strict=True):
                bare = all(is_missing(segmentation) for _, segmentation in items)
                unknown = bare and (bool(items) or skip_unlabelled)
                where = file.image_path(image.get("file_name"), image.get("path"), image["id"])
                video.add_frame(number, where, told_size(image), None if unknown else items)
            videos.append(video)
        check_files_apart(file, videos)
    return CocoReader(file, videos, data, own, num_categories)


def _objects_of(
    found: list[list[dict]], categories: dict[Any, str], num_categories: Optional[int]
) -> tuple[list[list[ObjectSegmentation]], dict[int, str]]:
    """Return the masks on each image of a video, and {object id or slot: name}."""
    if num_categories is not None:
        ids = {key: slot for slot, key in enumerate(categories)}
        names = dict(enumerate(list(categories.values())[:num_categories]))
        keys = [[ids[item["category_id"]] for item in items] for items in found]
    else:
        tracks = {track_of(item): item["category_id"] for items in found for item in items}
        # ids of the file may be texts, or count on from video to video
        order = sorted(tracks, key=lambda track: (natural_key(str(track)), str(type(track))))
        ids = {track: k + 1 for k, track in enumerate(order)}
        names = {ids[track]: categories[tracks[track]] for track in order}
        keys = [[ids[track_of(item)] for item in items] for items in found]
    masks = [[item.get("segmentation") for item in items] for items in found]
    return [list(zip(k, m, strict=True)) for k, m in zip(keys, masks, strict=True)], names


def _with_track(file: CocoFile, annotations: Annotations) -> Annotations:
    """Leave out annotations that name no track, with a warning."""
    tracked = {
        key: [item for item in items if track_of(item) is not None]
        for key, items in annotations.items()
    }
    total, kept = (sum(map(len, found.values())) for found in (annotations, tracked))
    if total and not kept:
        raise DataError(
            f"{file.setting} has no annotation with `track_id` or `instance_id`, which"
            " data.objects=instances needs: data.objects=categories takes one object per category,"
            " data=coco_images every image by itself"
        )
    if kept < total:
        rank_zero_warn(
            f"{file.setting} has {total - kept} of {total} annotations without `track_id` or"
            " `instance_id`, which are left out"
        )
    return tracked


def _warn_of_cut_slots(
    file: CocoFile, annotations: Annotations, categories: dict[Any, str], num_categories: int
) -> None:
    masked = {
        item["category_id"]
        for items in annotations.values()
        for item in items
        if not is_missing(item.get("segmentation"))
    }
    names = [name for key, name in list(categories.items())[num_categories:] if key in masked]
    if names:
        rank_zero_warn(
            f"{file.setting} annotates {len(names)} categories that data.num_categories="
            f"{num_categories} leaves out ({', '.join(names)}); data.num_categories=null"
            " keeps all"
        )


def _warn_of_unlabelled(file: CocoFile, annotations: Annotations) -> None:
    names = [
        str(image.get("file_name") or image.get("path") or image["id"])
        for image in file.content["images"]
        if image["id"] not in annotations
    ]
    if names:
        rank_zero_warn(
            f"{file.setting} has {counted(len(names), 'image')} without an annotation"
            f" ({name_some(names)}), taken as frames without objects; if they were never labelled,"
            " set data.unlabelled=skip"
        )


def _name_videos(file: CocoFile, annotations: Annotations) -> list[tuple[str, list[dict]]]:
    """Return (name, images in their order) of the videos, sorted by name."""
    images = file.content["images"]
    by_folder = bool(images) and all(image.get("video_id") is None for image in images)
    if by_folder and not any(track_of(item) is not None for item in _all(annotations)):
        raise DataError(
            f"{file.setting} has no image with `video_id`, expected a COCO-video file"
            f"{hint_at_kind(file.content, 'coco_video')}"
        )
    videos = defaultdict(list)
    for image in images:
        key = _folder_of(file, image) if by_folder else str(image["video_id"])
        videos[key].append(image)
    titles = _titles(file)
    named = [(titles.get(key, key), _in_order(images)) for key, images in videos.items()]
    return sorted(named, key=lambda item: item[0])


def _all(annotations: Annotations) -> Iterator[dict]:
    return itertools.chain.from_iterable(annotations.values())


def _titles(file: CocoFile) -> dict[str, str]:
    """Return {video id: name}, empty where the names do not tell videos apart."""
    videos = file.content.get("videos") or []
    titles = {str(item["id"]): str(item["name"]) for item in videos if "name" in item}
    return titles if len(set(titles.values())) == len(titles) else {}


def _folder_of(file: CocoFile, image: dict) -> str:
    """Return an image's folder, which is a video, or the name of the file where it has none."""
    name = str(image.get("file_name") or image.get("path") or "")
    folder = str(PurePosixPath(name.replace("\\", "/")).parent)
    return Path(file.path).stem if folder == "." else folder


def _frame_numbers(images: list[dict]) -> Sequence[int]:
    """Return `order_in_video` where it numbers all images, and their positions otherwise."""
    given = [number_of(image.get("order_in_video")) for image in images]
    numbers = [int(number) for number in given if number is not None and number == int(number)]
    return numbers if len(set(numbers)) == len(images) else range(len(images))


def _in_order(images: list[dict]) -> list[dict]:
    """Order by the first number that all images of a video have, and by the numbers in their names.

    Those that have no number would all come last, wherever they belong.
    """
    for key in ("order_in_video", "frame_id"):
        numbers = {id(image): number_of(image.get(key)) for image in images}
        if None not in numbers.values():
            return sorted(images, key=lambda image: (numbers[id(image)], _name_key(image)))
    return sorted(images, key=_name_key)


def _name_key(image: dict) -> tuple[list, str]:
    name = str(image.get("file_name") or image.get("path") or "")
    return natural_key(name), name
