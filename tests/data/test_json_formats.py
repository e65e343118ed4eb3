"""JSON files of instances: tracks of COCO-video, YouTube-VIS, COCO images."""

import json

import numpy as np
import pytest
from scenes import label_map, rle, save_frame

from core.config import DataConfig
from core.data import DataError
from core.data.readers.reader import SOURCES, has_category_layout

CATEGORIES = [{"id": 4, "name": "cat"}, {"id": 9, "name": "dog"}]


def box(k: int) -> list[list[int]]:
    """Object k of `label_map` as a polygon."""
    left = 8 * (k - 1)
    return [[left, 8, left + 8, 8, left + 8, 16, left, 16]]


def is_object(mask: np.ndarray, *objects: int) -> bool:
    """Whether a mask is exactly that of these objects, but for the rims of polygons."""
    expected = label_map(*objects) > 0
    return not (mask ^ expected)[:, :].sum() > 20 and bool((mask & expected).any())


def open_reader(root, source, content, name="train.json", **fields):
    (root / name).write_text(json.dumps(content))
    fields = {"train_annotations": str(root / name), "image_root": str(root / "frames"), **fields}
    return SOURCES[source].open(DataConfig(source=source, **fields))[0]


def tracks_of(root, num_frames=3, **first) -> dict:
    """Two cats and, from frame 1 on, a dog of two parts; `first` is set in the first annotation."""
    images, annotations = [], []
    for t in range(num_frames):
        save_frame(root / "frames" / "v" / f"frame_{t}.png", t)
        images.append({"id": 50 + t, "file_name": f"v/frame_{t}.png", "video_id": 7, "frame_id": t})
        found = [("b", 4, rle(label_map(1) > 0)), ("a", 4, box(2))]
        if t:
            found += [("c", 9, box(3)), ("c", 9, box(4))]
        annotations += [
            {"image_id": 50 + t, "category_id": key, "track_id": track, "segmentation": value}
            for track, key, value in found
        ]
    annotations[0].update(first)
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def test_tracks_are_objects_from_1_in_the_order_of_their_names(tmp_path):
    reader = open_reader(tmp_path, "coco_video", tracks_of(tmp_path), objects="instances")
    assert reader.num_categories is None
    assert reader.object_names(0) == {1: "cat", 2: "cat", 3: "dog"}
    frames = reader.video(0).frames
    assert [frame.frame_idx for frame in frames] == [0, 1, 2]
    first, second = (reader.masks(0, frame) for frame in frames[:2])
    assert (sorted(first), sorted(second)) == ([1, 2], [1, 2, 3])
    assert is_object(first[1], 2)
    assert is_object(first[2], 1)
    assert is_object(second[3], 3, 4)


@pytest.mark.parametrize(
    "move",
    [
        lambda item: item.update(instance_id=item.pop("track_id")),
        lambda item: item.update(attributes={"occluded": False, "track_id": item.pop("track_id")}),
    ],
    ids=["CocoVID", "CVAT"],
)
def test_tracks_are_found_where_tools_write_them(tmp_path, move):
    content = tracks_of(tmp_path)
    for item in content["annotations"]:
        move(item)
    reader = open_reader(tmp_path, "coco_video", content, objects="instances")
    assert reader.object_names(0) == {1: "cat", 2: "cat", 3: "dog"}


@pytest.mark.filterwarnings("ignore:.*has 1 of 10 annotations without")
def test_without_video_ids_tracks_make_a_video_of_each_folder(tmp_path):
    content = tracks_of(tmp_path)
    for image in content["images"]:
        del image["video_id"]
    for objects in ("instances", "categories"):
        reader = open_reader(tmp_path, "coco_video", content, objects=objects)
        assert reader.names == ["v"]
        assert len(reader.video(0).frames) == 3
    for item in content["annotations"]:
        del item["track_id"]
    with pytest.raises(DataError, match=r"no image with `video_id`.* one for data=coco_images$"):
        open_reader(tmp_path, "coco_video", content)


def test_annotations_without_a_track_are_left_out_with_a_warning(tmp_path):
    content = tracks_of(tmp_path)
    del content["annotations"][0]["track_id"]
    with pytest.warns(UserWarning, match=r"has 1 of 10 annotations without `track_id`"):
        reader = open_reader(tmp_path, "coco_video", content, objects="instances")
    assert list(reader.masks(0, reader.video(0).frames[0])) == [1]
    for item in content["annotations"]:
        item.pop("track_id", None)
    with pytest.raises(DataError, match=r"which data.objects=instances needs: data.objects=categ"):
        open_reader(tmp_path, "coco_video", content, objects="instances")


def test_crowds_are_left_out_but_not_the_masks_that_cvat_marks_so(tmp_path):
    content = tracks_of(tmp_path, iscrowd=1, attributes={})
    assert open_reader(tmp_path, "coco_video", content, objects="instances").masks
    del content["annotations"][0]["attributes"]
    with pytest.warns(UserWarning, match=r"has 1 annotations with `iscrowd`, which are left out"):
        reader = open_reader(tmp_path, "coco_video", content, objects="instances")
    assert list(reader.masks(0, reader.video(0).frames[0])) == [1]


def test_only_categories_are_the_category_layout():
    fields = {"source": "coco_video", "train_annotations": "a"}
    assert has_category_layout(DataConfig(**fields))
    assert not has_category_layout(DataConfig(objects="instances", **fields))
    assert not has_category_layout(DataConfig())
