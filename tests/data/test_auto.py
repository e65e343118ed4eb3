"""What ``data=auto`` says of a folder, and which source a refusal names."""

import json
import weakref

import pytest
from scenes import coco_content, label_map, make_video, rle, save_mask
from test_json_formats import images_of, save_sa1b, tracks_of, vis_of
from test_mots import save_task, save_videos

from core.config import DataConfig
from core.data import DataError, VideoDataModule
from core.data.readers.reader import SOURCES
from core.data.readers.recognise import resolve_source
from core.data.split import split_videos


def make_png_folders(root) -> None:
    make_video(root)
    for path in (root / "Annotations" / "a").iterdir():
        save_mask(path.parent / "1" / path.name, label_map(1))
        path.unlink()


def make_sav(root) -> None:
    (root / "sav_000").mkdir()
    content = {"masklet": [[rle(label_map(1) > 0)]]}
    (root / "sav_000" / "sav_000001_manual.json").write_text(json.dumps(content))


def make_json(content_of, name):
    def make(root) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content_of(root)))

    return make


MADE = {
    "vos_folder": make_video,
    "png_folders": make_png_folders,
    "sav": make_sav,
    "sa1b": save_sa1b,
    "mots": save_videos,
    "coco_video": make_json(coco_content, "train.json"),
    "coco_video data.objects=instances": make_json(
        lambda root: without_video_id(tracks_of(root)), "annotations/instances_default.json"
    ),
    "youtube_vis": make_json(vis_of, "annotations/train.json"),
    "coco_images": make_json(images_of, "annotations/instances_train.json"),
}


def without_video_id(content) -> dict:
    for image in content["images"]:
        del image["video_id"]
    return content


def resolved(root, **fields) -> tuple[DataConfig, str]:
    said: list[str] = []
    data = resolve_source(DataConfig(source="auto", root=str(root), **fields), said.append)
    (sentence,) = said
    return data, sentence


@pytest.mark.parametrize("made_for", MADE)
def test_a_folder_is_read_as_what_it_is(tmp_path, made_for):
    MADE[made_for](tmp_path)
    data, said = resolved(tmp_path)
    source, *objects = made_for.split()
    assert data.source == source
    assert (data.objects == "instances") == bool(objects)
    assert f"{tmp_path} is read as data={source} " in said
    reader = SOURCES[source].open(data)[0]
    if source != "sav":
        assert reader.masks(0, reader.video(0).frames[0]) is not None


def test_every_source_of_files_is_recognised():
    assert {name.split()[0] for name in MADE} == set(SOURCES)


@pytest.mark.parametrize("made_for", MADE)
def test_one_folder_further_down_it_is_found_too(tmp_path, made_for):
    (tmp_path / "unzipped").mkdir()
    MADE[made_for](tmp_path / "unzipped")
    data, _ = resolved(tmp_path)
    assert data.source == made_for.split()[0]
    SOURCES[data.source].open(data)


def test_files_of_training_and_validation_are_told_by_their_names(tmp_path):
    for split in ("train", "valid", "test"):
        make_json(images_of, "_annotations.coco.json")(tmp_path / split)
        for path in (tmp_path / split / "frames").iterdir():
            path.rename(tmp_path / split / path.name)
    data, _ = resolved(tmp_path)
    assert data.train_annotations == str(tmp_path / "train" / "_annotations.coco.json")
    assert data.val_annotations == str(tmp_path / "valid" / "_annotations.coco.json")
    assert data.image_root is None
    split = split_videos(data)
    assert len(split.val.reader.masks(0, split.val.reader.video(0).frames[0])) == 2


def test_frames_of_training_and_validation_may_lie_in_two_folders(tmp_path):
    for split in ("train2017", "val2017"):
        make_json(images_of, f"annotations/instances_{split}.json")(tmp_path)
        (tmp_path / "frames").rename(tmp_path / split)
    data, _ = resolved(tmp_path)
    assert data.image_root == str(tmp_path / "train2017")
    assert data.val_image_root == str(tmp_path / "val2017")
    val = split_videos(data).val.reader
    assert val.video(0).frames[0].image_path == str(tmp_path / "val2017" / "a.jpg")


def test_coco_2017_is_read_as_it_is_shipped(tmp_path):
    def captions_of(root) -> dict:
        content = images_of(root)
        captions = [{"id": 1, "image_id": 1, "caption": "Two cats."}]
        return {"images": content["images"], "annotations": captions}

    def keypoints_of(root) -> dict:
        content = images_of(root)
        for item in content["annotations"]:
            item.update(keypoints=[1, 1, 2], num_keypoints=1)
        return content

    kinds = {"captions": captions_of, "instances": images_of, "person_keypoints": keypoints_of}
    for split in ("train2017", "val2017"):
        for kind, content_of in kinds.items():
            make_json(content_of, f"annotations/{kind}_{split}.json")(tmp_path)
        (tmp_path / "frames").rename(tmp_path / split)
    data, _ = resolved(tmp_path)
    assert data.source == "coco_images"
    for split, found, folder in (
        ("train2017", data.train_annotations, data.image_root),
        ("val2017", data.val_annotations, data.val_image_root),
    ):
        assert found == str(tmp_path / "annotations" / f"instances_{split}.json")
        assert folder == str(tmp_path / split)


def test_files_of_the_same_format_for_other_images_are_a_choice_of_the_users(tmp_path):
    def others_of(root) -> dict:
        content = images_of(root)
        content["images"][0]["file_name"] = "d.png"
        return content

    make_json(images_of, "annotations/instances_train.json")(tmp_path)
    make_json(others_of, "annotations/more_train.json")(tmp_path)
    with pytest.raises(DataError, match=r"several annotation files \(annotations.inst.*, annot"):
        resolved(tmp_path)


@pytest.mark.parametrize("annotations", [None, []])
def test_videos_for_a_server_are_not_of_validation(tmp_path, annotations):
    make_json(vis_of, "train.json")(tmp_path)
    make_json(lambda root: {**vis_of(root), "annotations": annotations}, "valid.json")(tmp_path)
    data, _ = resolved(tmp_path)
    assert data.train_annotations == str(tmp_path / "train.json")
    assert data.val_annotations is None


def test_boxes_alone_are_found_for_the_reader_to_name(tmp_path):
    def boxes_of(root) -> dict:
        content = images_of(root)
        for item in content["annotations"]:
            item["segmentation"] = []
        return content

    make_json(boxes_of, "train.json")(tmp_path)
    data, _ = resolved(tmp_path)
    with pytest.raises(DataError, match="it holds boxes or points, expected masks"):
        SOURCES[data.source].open(data)


def test_one_large_file_is_held_at_a_time(tmp_path, monkeypatch):
    class Content(dict):
        """What was read, which can be watched."""

        __hash__ = object.__hash__

    held = weakref.WeakSet()
    most = []

    def read(path, setting):
        content = Content(images_of(tmp_path))
        held.add(content)
        most.append(len(held))
        return content

    monkeypatch.setattr("core.data.readers.recognise.read_json", read)
    for split in ("train", "val"):
        make_json(images_of, f"instances_{split}.json")(tmp_path)
    resolved(tmp_path)
    assert most == [1, 1]


@pytest.mark.parametrize("key", ["track_id", "instance_id"])
def test_tracks_of_images_with_a_video_are_objects(tmp_path, key):
    def content_of(root) -> dict:
        content = tracks_of(root)
        for item in content["annotations"]:
            item[key] = item.pop("track_id")
        return content

    make_json(content_of, "annotations/train.json")(tmp_path)
    data, said = resolved(tmp_path)
    assert "data=coco_video" in said
    assert "data.objects=instances" in said
    reader = SOURCES[data.source].open(data)[0]
    assert reader.object_names(0) == {1: "cat", 2: "cat", 3: "dog"}


def test_tracks_behind_a_shape_without_one_are_objects(tmp_path):
    def content_of(root) -> dict:
        content = without_video_id(tracks_of(root))
        first = {**content["annotations"][0], "attributes": {"occluded": False}}
        del first["track_id"]
        content["annotations"].insert(0, first)
        return content

    make_json(content_of, "annotations/instances_default.json")(tmp_path)
    data, _ = resolved(tmp_path)
    assert (data.source, data.objects) == ("coco_video", "instances")


@pytest.mark.parametrize("objects", ["categories", "instances"])
@pytest.mark.parametrize("content_of", [tracks_of, coco_content])
def test_objects_that_the_user_sets_stay(tmp_path, content_of, objects):
    make_json(content_of, "annotations/train.json")(tmp_path)
    data, _ = resolved(tmp_path, objects=objects)
    assert (data.source, data.objects) == ("coco_video", objects)


def test_what_the_user_sets_stays(tmp_path):
    MADE["youtube_vis"](tmp_path)
    assert resolved(tmp_path)[0].image_root == str(tmp_path / "frames")
    assert resolved(tmp_path, image_root="elsewhere")[0].image_root == "elsewhere"


def test_a_module_takes_what_is_found(tmp_path):
    save_task(tmp_path)
    module = VideoDataModule(DataConfig(source="auto", root=str(tmp_path)), 32, seed=0)
    assert module.data.source == "mots"


def test_an_unknown_folder_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"finds no data set in .*; looked for JPEGImages beside"):
        resolved(tmp_path)
    (tmp_path / "data.yaml").touch()
    with pytest.raises(DataError, match=r"which has data\.yaml, of YOLO's labels: export as COCO"):
        resolved(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"shapes": [], "imagePath": "a.jpg"}, r"a\.json, of labelme: convert it to COCO"),
        ([{"annotations": [], "data": {}}], r"a\.json, a list: of Label Studio export COCO"),
    ],
    ids=["labelme", "Label Studio"],
)
def test_json_of_tools_that_write_coco_too_is_told(tmp_path, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        resolved(tmp_path)


def test_two_data_sets_or_files_are_a_choice_of_the_users(tmp_path):
    for name in ("one", "two"):
        make_video(tmp_path / name)
    with pytest.raises(DataError, match=r"has 2 data sets \(one, two\), expected data\.root to be"):
        resolved(tmp_path)
    for name in ("a.json", "b.json"):
        make_json(vis_of, name)(tmp_path / "one" / "three")
    with pytest.raises(DataError, match=r"several annotation files \(a\.json, b\.json\), .*_vis$"):
        resolved(tmp_path / "one" / "three")


@pytest.mark.parametrize(
    ("made_for", "read_as"),
    [("mots", "vos_folder"), ("vos_folder", "mots"), ("vos_folder", "sav"), ("sav", "sa1b"),
     ("sa1b", "png_folders"), ("youtube_vis", "vos_folder")],
)  # fmt: skip
def test_a_folder_for_another_source_is_told_apart(tmp_path, made_for, read_as):
    MADE[made_for](tmp_path)
    folders = {"mots": ("images", "instances"), "sav": ("JPEGImages", "."), "sa1b": (".", ".")}
    images, annotations = folders.get(read_as, ("JPEGImages", "Annotations"))
    data = DataConfig(
        source=read_as, root=str(tmp_path), image_folder=images, annotation_folder=annotations
    )
    with pytest.raises(DataError, match=rf"; it looks like .*data={made_for}"):
        split_videos(data)
