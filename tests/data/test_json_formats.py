"""JSON files of instances: tracks of COCO-video, YouTube-VIS, COCO images."""

import json
import weakref
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from scenes import HEIGHT, WIDTH, label_map, rle, save_frame

from core.config import DataConfig
from core.data import DataError, VideoDataModule
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
        lambda item: item.update(track_id=float("abc".index(item["track_id"]) + 1)),
    ],
    ids=["CocoVID", "CVAT", "pandas"],
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
    for image, given in zip(content["images"], (True, True, False), strict=True):
        image["video_id"] = None
        if not given:
            del image["video_id"]
    for objects in ("instances", "categories"):
        reader = open_reader(tmp_path, "coco_video", content, objects=objects)
        assert reader.names == ["v"]
        assert len(reader.video(0).frames) == 3
    for item in content["annotations"]:
        del item["track_id"]
    with pytest.raises(DataError, match=r"no image with `video_id`.* one for data=coco_images$"):
        open_reader(tmp_path, "coco_video", content)


def test_images_without_a_folder_are_one_video_of_the_files_name(tmp_path):
    content = tracks_of(tmp_path)
    for image in content["images"]:
        del image["video_id"]
        image["file_name"] = image["file_name"].removeprefix("v/")
    root = str(tmp_path / "frames" / "v")
    reader = open_reader(tmp_path, "coco_video", content, objects="instances", image_root=root)
    assert reader.names == ["train"]
    assert len(reader.masks(0, reader.video(0).frames[0])) == 2


def two_videos_of_bare_names(root) -> dict:
    """Videos v1 and v2, whose frames `file_name` calls 0.jpg and 1.jpg, and `path` v1/0.jpg."""
    content = tracks_of(root, num_frames=4)
    for k, image in enumerate(content["images"]):
        path = f"v{k // 2 + 1}/{k % 2}.jpg"
        image.update(video_id=k // 2 + 1, file_name=f"{k % 2}.jpg", path=path)
        save_frame(root / path, k)
    return content


def test_frames_of_two_videos_in_one_file_are_refused(tmp_path):
    content = two_videos_of_bare_names(tmp_path)
    message = (
        r"train\.json has frame 0 of video '1' and frame 0 of video '2' in one file, \S*v1.0\.jpg:"
        r" expected a `file_name` that tells them apart, with the folder of its video$"
    )
    with pytest.raises(DataError, match=message):
        open_reader(tmp_path, "coco_video", content, image_root=str(tmp_path / "v1"))
    content = vis_of(tmp_path)
    content["videos"][0]["file_names"] = content["videos"][1]["file_names"]
    with pytest.raises(DataError, match=r"frame 0 of video '1' in one file, \S*v.00000\.jpg: exp"):
        open_reader(tmp_path, "youtube_vis", content)


def test_a_path_beside_the_json_comes_before_a_bare_name(tmp_path):
    content = two_videos_of_bare_names(tmp_path)
    reader = open_reader(tmp_path, "coco_video", content, image_root=None)
    paths = [frame.image_path for i in range(2) for frame in reader.video(i).frames]
    assert paths == [str(tmp_path / f"v{k // 2 + 1}" / f"{k % 2}.jpg") for k in range(4)]


def test_the_setting_for_frames_that_are_not_found_is_that_of_their_file(tmp_path):
    content = tracks_of(tmp_path)
    (tmp_path / "train.json").write_text(json.dumps(content))
    path = str(tmp_path / "train.json")
    data = DataConfig(source="coco_video", train_annotations=path, val_annotations=path)
    for reader, name in zip(SOURCES["coco_video"].open(data), ("image", "val_image"), strict=True):
        with pytest.raises(DataError, match=rf"not exist; set data\.{name}_root=DIR to look for"):
            reader.size(reader.video(0).frames[0])


def test_a_missing_folder_of_validation_is_named_as_such(tmp_path):
    content = tracks_of(tmp_path)
    fields = {"objects": "instances", "val_annotations": str(tmp_path / "train.json")}
    fields["val_image_root"] = str(tmp_path / "none")
    with pytest.raises(DataError, match=r"^data\.val_image_root=\S*none: "):
        open_reader(tmp_path, "coco_video", content, **fields)


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


def vis_of(root, num_frames=3) -> dict:
    """Video v of a cat on all frames and a dog that is not there on the first; w has nothing."""
    names = {"v": [f"v/{5 * t:05d}.jpg" for t in range(num_frames)], "w": ["w/00000.jpg"]}
    for t, name in enumerate(names["v"] + names["w"]):
        save_frame(root / "frames" / name, t)
    videos = [
        {"id": k, "file_names": names[key], "width": WIDTH, "height": HEIGHT}
        for k, key in enumerate("wv")
    ]
    cat = [rle(label_map(1) > 0)] * num_frames
    dog = [None, *[box(2)] * (num_frames - 1)]
    annotations = [
        {"id": 30, "video_id": 1, "category_id": 4, "iscrowd": 0, "segmentations": cat},
        {"id": 10, "video_id": 1, "category_id": 9, "iscrowd": 0, "segmentations": dog},
    ]
    return {"videos": videos, "annotations": annotations, "categories": CATEGORIES}


def test_youtube_vis_has_an_object_per_annotation(tmp_path):
    reader = open_reader(tmp_path, "youtube_vis", vis_of(tmp_path))
    assert reader.names == ["v", "w"]
    assert reader.object_names(0) == {1: "cat", 2: "dog"}
    frames = reader.video(0).frames
    assert [frame.frame_idx for frame in frames] == [0, 1, 2]
    assert np.asarray(reader.image(frames[1])).shape == (HEIGHT, WIDTH, 3)
    first, second = (reader.masks(0, frame) for frame in frames[:2])
    assert list(first) == [1]
    assert is_object(first[1], 1)
    assert is_object(second[2], 2)
    assert reader.remarks(0, frames[0]) == []
    assert reader.masks(1, reader.video(1).frames[0]) == {}


def test_a_worker_comes_to_own_few_of_the_videos_that_it_reads(tmp_path):
    content = vis_of(tmp_path)
    content["videos"] = [
        {"id": k, "file_names": [f"{k}/0.jpg"], "width": WIDTH, "height": HEIGHT} for k in range(40)
    ]
    content["annotations"] = [
        {"video_id": k, "category_id": 4, "segmentations": [box(1 + k % 3)]} for k in range(40)
    ]
    for k in range(40):
        save_frame(tmp_path / "frames" / str(k) / "0.jpg", k)
    reader = open_reader(tmp_path, "youtube_vis", content)
    read = []
    for i, name in enumerate(reader.names):
        video = reader.video(i)
        read.append(weakref.ref(video))
        # a clip asks for its video again, which is not unpacked anew
        assert reader.video(i) is video
        assert is_object(reader.masks(i, video.frames[0])[1], 1 + int(name) % 3)
    del video
    assert sum(item() is not None for item in read) <= 4


def test_videos_of_sam_3_have_names_and_phrases(tmp_path):
    content = vis_of(tmp_path)
    content["videos"][1]["video_name"], content["videos"][0]["video_name"] = "sav_2", "sav_1"
    content["annotations"][0]["noun_phrase"] = "a striped cat"
    content["video_np_pairs"] = [{"video_id": 1, "category_id": 4, "num_masklets": 1}]
    reader = open_reader(tmp_path, "youtube_vis", content)
    assert reader.names == ["sav_1", "sav_2"]
    assert reader.object_names(1) == {1: "a striped cat", 2: "dog"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0]["segmentations"].pop(), "30 with 2 masks, expected one or"),
        (lambda c: c["annotations"][0].update(video_id=5), "annotation of video 5, which it does"),
        (lambda c: c["annotations"][0].update(category_id=5), "annotation of category 5, which"),
        (lambda c: c["videos"][0].update(id=1), "has two videos with the same id"),
        (lambda c: c["videos"][0].pop("file_names"), "without a needed field .*a YouTube-VIS file"),
        (lambda c: c["videos"][1].update(file_names=["../x.jpg"] * 3), r"outside data\.image_root"),
        (lambda c: c.update(annotations=None), "has no list `annotations`"),
    ],
)
def test_bad_youtube_vis_is_refused(tmp_path, change, message):
    content = vis_of(tmp_path)
    change(content)
    with pytest.raises(DataError, match=message):
        open_reader(tmp_path, "youtube_vis", content)


def images_of(root) -> dict:
    """One image of two cats, one with nothing and one of a box alone."""
    for t, name in enumerate(("a.jpg", "b.png", "c.jpg")):
        save_frame(root / "frames" / name, t)
    images = [
        {"id": k, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for k, name in enumerate(("b.png", "a.jpg", "c.jpg"))
    ]
    parts = [*box(2), *box(3)]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 4, "segmentation": parts},
        {"id": 2, "image_id": 1, "category_id": 4, "segmentation": rle(label_map(1) > 0)},
        {"id": 3, "image_id": 1, "category_id": 9, "segmentation": [], "bbox": [0, 0, 9, 9]},
        {"id": 4, "image_id": 2, "category_id": 9, "segmentation": [], "bbox": [0, 0, 9, 9]},
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def test_an_image_is_a_clip_of_one_frame_with_an_object_per_annotation(tmp_path):
    reader = open_reader(tmp_path, "coco_images", images_of(tmp_path))
    assert reader.names == ["a.jpg", "b.png", "c.jpg"]
    assert [len(reader.video(i).frames) for i in range(2)] == [1, 1]
    with pytest.raises(DataError, match=r"train\.json has no known masks for it"):
        reader.video(2)
    masks = reader.masks(0, reader.video(0).frames[0])
    assert list(masks) == [1, 2]
    assert is_object(masks[1], 2, 3)
    assert is_object(masks[2], 1)
    assert reader.object_names(0) == {1: "cat", 2: "cat"}
    assert reader.masks(1, reader.video(1).frames[0]) == {}


def test_images_are_clips_of_one_frame(tmp_path):
    content = images_of(tmp_path)
    content["annotations"][-1].update(image_id=0, segmentation=box(2))
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "frames").rename(tmp_path / "images")
    fields = {"train_annotations": str(tmp_path / "a.json"), "image_root": str(tmp_path / "images")}
    data = DataConfig(source="coco_images", val_fraction=0.5, **fields)
    module = VideoDataModule(data, 32, seed=0)
    with pytest.warns(UserWarning, match=r"skipped validation videos: 1 with no object .*c.jpg"):
        module.setup("fit")
    clip = module.datasets["train"][0]
    assert len(clip.frames) == 1
    assert sorted(item.object_id for item in clip.frames[0].objects) == [1, 2]


# what tools leave where a polygon was begun, or all of its points but two were deleted
NO_POLYGONS = pytest.mark.parametrize("rest", [[[]], [[3, 4]], [[3, 4, 5, 6]], [[], [3, 4]]])


@NO_POLYGONS
def test_polygons_without_three_points_are_no_mask_of_a_track(tmp_path, rest):
    content = tracks_of(tmp_path)
    dogs = [item for item in content["annotations"] if item["track_id"] == "c"]
    for item in dogs[-2:]:
        item["segmentation"] = rest
    reader = open_reader(tmp_path, "coco_video", content, objects="instances")
    frames = reader.video(0).frames
    assert [sorted(reader.masks(0, frame)) for frame in frames] == [[1, 2], [1, 2, 3], [1, 2]]
    assert [bool(reader.remarks(0, frame)) for frame in frames] == [False, False, True]
    assert "objects without a mask beside those that" in reader.remarks(0, frames[2])[0].text
    # as of a frame of boxes alone, its masks are unknown
    for item in content["annotations"]:
        if item["image_id"] == 51:
            item["segmentation"] = rest
    reader = open_reader(tmp_path, "coco_video", content, objects="instances")
    assert [frame.frame_idx for frame in reader.video(0).frames] == [0, 2]


@NO_POLYGONS
def test_polygons_without_three_points_are_no_mask_of_an_image(tmp_path, rest):
    content = images_of(tmp_path)
    content["annotations"][2]["segmentation"] = rest
    reader = open_reader(tmp_path, "coco_images", content)
    frame = reader.video(0).frames[0]
    assert sorted(reader.masks(0, frame)) == [1, 2]
    (remark,) = reader.remarks(0, frame)
    assert (remark.file, "without a mask" in remark.text) == (frame.image_path, True)


@NO_POLYGONS
def test_polygons_without_three_points_are_no_mask_of_a_video(tmp_path, rest):
    content = vis_of(tmp_path)
    content["annotations"][1]["segmentations"][1] = rest
    reader = open_reader(tmp_path, "youtube_vis", content)
    frames = reader.video(0).frames
    assert [sorted(reader.masks(0, frame)) for frame in frames] == [[1], [1], [1, 2]]
    # null, as on the first frame, is how the format says that an object is not there
    assert [len(reader.remarks(0, frame)) for frame in frames] == [0, 1, 0]


@pytest.mark.parametrize("points", [[[[1, 2], [3, 4]]], [[1, 2, 3]], [["1", "2"]], [1, 2]])
def test_what_is_malformed_counts_as_a_mask_and_is_refused(tmp_path, points):
    content = tracks_of(tmp_path, segmentation=points)
    reader = open_reader(tmp_path, "coco_video", content, objects="instances")
    with pytest.raises(DataError, match=r"a mask of \S*frame_0\.png in .*train\.json (is|has)"):
        reader.masks(0, reader.video(0).frames[0])


@pytest.mark.parametrize("source", ["coco_images", "coco_video"])
def test_boxes_alone_are_refused(tmp_path, source):
    content = images_of(tmp_path)
    for item in content["annotations"]:
        item["segmentation"] = []
    with pytest.raises(DataError, match=r"has 4 annotations, none with a `segmentation`: it holds"):
        open_reader(tmp_path, source, content)


CONTENTS = {"coco_video": tracks_of, "youtube_vis": vis_of, "coco_images": images_of}


@pytest.mark.parametrize(
    ("made_for", "read_as"),
    [
        ("youtube_vis", "coco_video"),
        ("youtube_vis", "coco_images"),
        ("coco_video", "youtube_vis"),
        ("coco_images", "youtube_vis"),
        ("coco_images", "coco_video"),
    ],
)
def test_a_file_for_another_source_is_told_apart(tmp_path, made_for, read_as):
    content = CONTENTS[made_for](tmp_path)
    objects = " data.objects=instances" if made_for == "coco_video" else ""
    with pytest.raises(DataError, match=rf"; it looks like one for data={made_for}{objects}$"):
        open_reader(tmp_path, read_as, content)


def save_sa1b(root, name="sa_000/sa_1", **changes) -> None:
    """One image of two masks, with what SA-1B tells of each."""
    save_frame(root / f"{name}.jpg", 1)
    told = {"predicted_iou": 0.9, "stability_score": 0.97, "crop_box": [0, 0, WIDTH, HEIGHT]}
    masks = [rle(label_map(2) > 0), rle(label_map(1, 2) > 0)]
    image = {"image_id": 1, "width": WIDTH, "height": HEIGHT, "file_name": "../secret.jpg"}
    annotations = [{"id": 60 - k, "segmentation": mask, **told} for k, mask in enumerate(masks)]
    content = {"image": image, "annotations": annotations, **changes}
    (root / f"{name}.json").write_text(json.dumps(content))


def open_sa1b(root):
    data = DataConfig(
        source="sa1b", root=str(root), image_folder=".", annotation_folder=".", num_frames=2
    )
    return SOURCES["sa1b"].open(data)[0]


def test_sa_1b_has_an_object_per_annotation(tmp_path):
    save_sa1b(tmp_path)
    save_sa1b(tmp_path, "sa_000/sa_2", annotations=[])
    reader = open_sa1b(tmp_path)
    assert reader.names == ["sa_000/sa_1", "sa_000/sa_2"]
    frame = reader.video(0).frames[0]
    assert reader.image(frame).size == (WIDTH, HEIGHT)
    masks = reader.masks(0, frame)
    assert list(masks) == [1, 2]
    np.testing.assert_array_equal(masks[2], label_map(1, 2) > 0)
    assert reader.masks(1, reader.video(1).frames[0]) == {}


def test_sa_1b_takes_images_with_suffixes_in_capitals(tmp_path):
    save_sa1b(tmp_path)
    image = tmp_path / "sa_000" / "sa_1.jpg"
    image.rename(image.with_suffix(".JPG"))
    assert open_sa1b(tmp_path).video(0).frames[0].image_path.endswith("sa_1.JPG")


def test_names_of_sa_1b_have_slashes_on_windows_too(tmp_path, monkeypatch):
    class Found:
        def relative_to(self, folder) -> PureWindowsPath:
            return PureWindowsPath("sa_000", "sa_1.json")

    save_sa1b(tmp_path)
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: [Found()])
    assert open_sa1b(tmp_path).names == ["sa_000/sa_1"]


def masks_of_sa1b(root) -> dict:
    reader = open_sa1b(root)
    return reader.masks(0, reader.video(0).frames[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, r"sa_1\.json is not an SA-1B annotation file, expected a mapping `im"),
        ({"annotations": [3]}, r"sa_1\.json is not an SA-1B annotation file"),
        ({"annotations": [{}]}, r"a mask in .*sa_1\.json is not an RLE"),
        (
            {"annotations": [{"segmentation": {"size": [HEIGHT, WIDTH], "counts": "1"}}]},
            r"a mask in .*sa_1\.json is a damaged RLE",
        ),
        ({"images": [{"file_name": "a"}], "image": 0}, r"; it looks like one for data=coco_images"),
    ],
)
def test_bad_sa_1b_is_refused(tmp_path, changes, message):
    save_sa1b(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        masks_of_sa1b(tmp_path)


def test_sa_1b_without_an_image_says_which(tmp_path):
    save_sa1b(tmp_path)
    (tmp_path / "sa_000" / "sa_1.jpg").unlink()
    with pytest.raises(DataError, match=r"sa_1\.json has no image, expected .*sa_1\.jpg$"):
        open_sa1b(tmp_path).video(0)
