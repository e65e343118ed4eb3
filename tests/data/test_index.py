"""What is kept of videos between runs: it saves reading, and nothing stale is believed."""

import json
import os
import pickle
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes import coco_content, label_map, make_video, rle, save_frame, save_mask
from test_auto import MADE

from core.config import DataConfig, cache_folder
from core.data import DataError, VideoDataModule
from core.data.index import _digest
from core.data.known import stamp_of
from core.data.readers.folders import VosFolderReader
from core.data.readers.packed import Packed

pytestmark = pytest.mark.filterwarnings("ignore:the data set has only one video")


@pytest.fixture
def settled(monkeypatch):
    """Files of these tests are seconds old, which is too young to be believed."""
    monkeypatch.setattr("core.data.known._SETTLED_NS", -(10**18))


@pytest.fixture
def reads(monkeypatch):
    """The videos whose masks were read, in order."""
    asked, masks = [], VosFolderReader.masks

    def read(self, i, frame):
        asked.append(self.names[i])
        return masks(self, i, frame)

    monkeypatch.setattr(VosFolderReader, "masks", read)
    return asked


def write_videos(root, names="abc", num_frames=5) -> Path:
    for name in names:
        make_video(root / "data", name, objects=((1,),) * num_frames)
    return root / "data"


def start(root, source="vos_folder", index=None, **fields) -> VideoDataModule:
    index = str(root / "index.json") if index is None else index
    if source not in ("coco_video", "coco_images"):
        fields["root"] = str(root / "data")
    module = VideoDataModule(DataConfig(source=source, num_frames=2, index=index, **fields), 32, 0)
    module.setup()
    return module


def found(module) -> dict:
    return {
        stage: [
            (data.reader.names[each.video], each.num_frames, each.num_clips, each.starts)
            for each in data.sources
        ]
        for stage, data in module.datasets.items()
    }


def test_a_second_start_reads_nothing_and_finds_the_same(tmp_path, settled, reads):
    write_videos(tmp_path)
    first = found(start(tmp_path))
    assert {*reads} == {*"abc"}
    reads.clear()
    assert found(start(tmp_path)) == first == found(start(tmp_path, index="off"))
    assert len(reads) == len([*"abc", "c"])  # of the last start alone: two clips validate
    # what is known serves other clips too
    reads.clear()
    start(tmp_path, clips_per_video=3, frame_stride=2)
    assert reads == []


def test_a_long_look_through_many_videos_is_announced(tmp_path, settled, monkeypatch, caplog):
    write_videos(tmp_path, "abcd")
    monkeypatch.setattr("core.data.finding._MANY", 3)
    with caplog.at_level("INFO"):
        start(tmp_path)
        assert caplog.messages == [
            "looking through 3 training videos, which later runs need not do"
        ]
        start(tmp_path)
    assert len(caplog.messages) == 1


def make_sav(root) -> None:
    for t in range(3):
        save_frame(root / "JPEGImages/sav_000/v" / f"{t:05d}.jpg", t)
    path = root / "sav_000/v_manual.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"masklet": [[rle(label_map(1) > 0)]] * 3}))


SETS = {**MADE, "sav": make_sav}


# the last of their videos cannot validate
BOTH = {
    "youtube_vis": "data/annotations/train.json",
    "coco_images": "data/annotations/instances_train.json",
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.filterwarnings("ignore:skipped")
def test_no_mask_of_any_format_is_read_again_unless_its_file_changed(
    tmp_path, monkeypatch, settled, name
):
    (tmp_path / "data").mkdir()
    SETS[name](tmp_path / "data")
    fields = {"val_annotations": str(tmp_path / BOTH[name])} if name in BOTH else {}
    first = start(tmp_path, "auto", **fields)
    reader, reread = first.datasets["train"].reader, []
    kind, masks = type(reader), type(reader).masks

    def read(self, i, frame):
        reread.append(i)
        return masks(self, i, frame)

    monkeypatch.setattr(kind, "masks", read)
    used = {each.video for data in first.datasets.values() for each in data.sources}
    assert found(start(tmp_path, "auto", **fields)) == found(first)
    assert not used & {*reread}
    depends_on = reader.depends_on(first.datasets["val"].sources[0].video)
    there = [path for path in map(Path, depends_on) if path.exists()]
    assert there
    for path in there:
        path.rename(f"{path}.x")
        Path(f"{path}.x").rename(path)
    start(tmp_path, "auto", **fields)
    assert used & {*reread}


def test_what_was_written_just_now_is_not_believed(tmp_path, reads):
    write_videos(tmp_path)
    start(tmp_path)
    reads.clear()
    start(tmp_path)
    assert {*reads} == {*"abc"}


def renumber(data, folder, numbers) -> None:
    """Give the files of a folder other numbers; None removes one."""
    paths = sorted((data / folder).iterdir())
    for path, number in reversed([*zip(paths, numbers, strict=True)]):
        path.unlink() if number is None else path.rename(path.with_stem(f"{number:05d}"))


SHIFTED = (
    r"left out 3 masks without a frame, in 2 videos \(a, b\); a has as many frames without a mask,"
    " so frames and masks may be counted from different starts"
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"JPEGImages/a": (1, 2, 3, 4, 5), "Annotations/b": (0, 1, 2, 6, 7)},
            SHIFTED,
        ),
        ({"Annotations/c": (0, 1, 2, 3, 9), "JPEGImages/c": (0, 1, 2, 3, None)}, "1 mask without"),
        ({"Annotations/a": (0, None, 2, None, 4)}, None),
    ],
    ids=["shifted", "more masks", "sparse"],
)
def test_masks_without_a_frame_are_told_once_at_every_start(tmp_path, settled, changes, message):
    data = write_videos(tmp_path)
    for folder, numbers in changes.items():
        renumber(data, folder, numbers)
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            start(tmp_path)
        texts = [str(item.message) for item in caught]
        assert len(texts) == (message is not None), texts
        assert message is None or re.search(message, texts[0])
        assert all(("different starts" in text) == (message == SHIFTED) for text in texts)


def test_counting_masks_without_a_frame_reads_no_folder_of_a_known_video(
    tmp_path, settled, monkeypatch
):
    write_videos(tmp_path)
    start(tmp_path)
    monkeypatch.delattr(VosFolderReader, "_read")
    start(tmp_path)


def test_folders_of_masks_without_frames_are_named(tmp_path):
    data = write_videos(tmp_path)
    make_video(data, "d")
    shutil.rmtree(data / "JPEGImages" / "d")
    with pytest.warns(UserWarning, match=r"1 folder of masks is not used \(d in .*Annotations\)"):
        start(tmp_path)


def add_frame(data) -> None:
    save_frame(data / "JPEGImages/a/00005.jpg", 5)
    save_mask(data / "Annotations/a/00005.png", label_map(1))


def restore_times(data) -> None:
    """What a coarse clock or a program that restores times leaves."""
    folder = data / "Annotations/a"
    before = folder.stat()
    add_frame(data)
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(data / "JPEGImages/a", ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "frame added": add_frame,
    "times restored": restore_times,
    "mask removed": lambda data: (data / "Annotations/a/00000.png").unlink(),
    "masks removed": lambda data: shutil.rmtree(data / "Annotations/a"),
    "mask renamed": lambda data: (data / "Annotations/c/00000.png").rename(
        data / "Annotations/c/00009.png"
    ),
    "video added": lambda data: make_video(data, "d", objects=((), (1,), (1,), (1,))),
    "video removed": lambda data: shutil.rmtree(data / "JPEGImages/b"),
    "video renamed": lambda data: [
        (data / kind / "a").rename(data / kind / "z") for kind in ("JPEGImages", "Annotations")
    ],
    "videos swapped": lambda data: [
        (data / kind / old).rename(data / kind / new)
        for kind in ("JPEGImages", "Annotations")
        for old, new in (("a", "x"), ("short", "a"), ("x", "short"))
    ],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.filterwarnings("ignore:skipped")
def test_changed_folders_are_noticed(tmp_path, settled, change):
    data = write_videos(tmp_path)
    make_video(data, "short", objects=((1,),) * 3)
    before = found(start(tmp_path))
    change(data)
    after = found(start(tmp_path))
    assert after == found(start(tmp_path, index="off")) != before


def test_a_list_that_changed_is_noticed(tmp_path, settled):
    data = write_videos(tmp_path)
    (data / "val.txt").write_text("a\n")
    start(tmp_path, val_list="val.txt")
    (data / "val.txt").write_text("b\n")
    assert found(start(tmp_path, val_list="val.txt"))["val"][0][0] == "b"


def test_an_object_folder_that_was_added_is_noticed(tmp_path, settled):
    data = write_videos(tmp_path, "ab", num_frames=0) / "Annotations"
    for name in "ab":
        for t in range(4):
            save_frame(tmp_path / "data" / "JPEGImages" / name / f"{t:05d}.jpg", t)
        for t in (2, 3):
            save_mask(data / name / "0" / f"{t:05d}.png", label_map(1))
    fields = {"source": "png_folders", "val_clips_per_video": 1}
    before = found(start(tmp_path, **fields))
    for t in (0, 1):
        save_mask(data / "b" / "1" / f"{t:05d}.png", label_map(1))
    assert found(start(tmp_path, **fields)) != before


def test_a_json_file_that_changed_is_noticed(tmp_path, settled):
    content = coco_content(tmp_path)
    path = tmp_path / "train.json"
    fields = {"train_annotations": str(path), "image_root": str(tmp_path / "frames")}
    path.write_text(json.dumps(content))
    before = found(start(tmp_path, "coco_video", **fields))
    # the masks of the first frames move away: the file has the size and the time that it had
    empty = rle(np.zeros(label_map(1).shape))
    first = {image["id"] for image in content["images"] if image["order_in_video"] == 0}
    for item in content["annotations"]:
        if item["image_id"] in first and item["segmentation"]:
            item["segmentation"] = empty
    stat, text = path.stat(), json.dumps(content)
    path.write_text(text + " " * (stat.st_size - len(text)))
    assert path.stat().st_size == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = found(start(tmp_path, "coco_video", **fields))
    assert {clips[-1][0] for clips in before["val"]} == {0}
    assert {clips[-1][0] for clips in after["val"]} == {1}


def sealed(path, change) -> None:
    """Change what an index holds, with the digest that it has to have."""
    header, _, body = path.read_text().partition("\n")
    header, body = json.loads(header), json.loads(body)
    change(header, body)
    text = json.dumps(body)
    path.write_text(f"{json.dumps(header | {'digest': _digest(text)})}\n{text}")


def edited(**fields):
    return lambda path: sealed(path, lambda header, body: header.update(fields))


def entry(k, value):
    return lambda path: sealed(path, lambda header, body: body[0]["a"].__setitem__(k, value))


BAD = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "a digit": lambda path: path.write_bytes(path.read_bytes().replace(b",5,", b",4,", 1)),
    "empty": lambda path: path.write_bytes(b""),
    "no text": lambda path: path.write_bytes(bytes(range(256))),
    "pickle": lambda path: path.write_bytes(pickle.dumps([{"a": 1}])),
    "deep": lambda path: path.write_text("[" * 10**6),
    "pipe": lambda path: [path.unlink(), os.mkfifo(path)],
    "other version": edited(version=0),
    "other data": edited(key="{}"),
    "no list": lambda path: sealed(path, lambda header, body: body.__setitem__(0, [])),
    "no entry": lambda path: sealed(path, lambda header, body: body[0].update(a=None)),
    "no number": entry(1, "5"),
    "too many": entry(1, 10**30),
    "position": entry(2, [-1]),
    "position beyond": entry(2, [5]),
    "no remarks": entry(4, [["x"]]),
    "no counts": entry(5, "ab"),
}


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_an_index_that_cannot_be_used_is_made_anew(tmp_path, settled, reads, spoil):
    write_videos(tmp_path)
    expected = found(start(tmp_path))
    spoil(tmp_path / "index.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(start(tmp_path)) == expected
    assert "a" in reads
    reads.clear()
    assert found(start(tmp_path)) == expected
    assert reads == []


def test_the_index_is_in_the_users_cache_folder(tmp_path, monkeypatch, settled):
    data = write_videos(tmp_path)
    monkeypatch.setattr("core.config.cache_folder", cache_folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for fields in ({"root": str(data)}, {"root": str(data), "ignore_id": 255}):
        VideoDataModule(DataConfig(source="vos_folder", num_frames=2, **fields), 32, 0).setup()
    files = list((tmp_path / "cache").rglob("*"))
    assert len([path for path in files if path.suffix == ".json"]) == 2
    assert len(files) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    VideoDataModule(DataConfig(source="vos_folder", num_frames=2, root=str(data)), 32, 0).setup()
    assert len(list((tmp_path / "home" / ".cache").rglob("*.json"))) == 1


def test_a_folder_takes_the_index_of_every_data_set(tmp_path, settled):
    write_videos(tmp_path)
    (tmp_path / "kept").mkdir()
    for ignored in (None, 255):
        start(tmp_path, index=str(tmp_path / "kept"), ignore_id=ignored)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_off_that_yaml_took_for_false_is_refused():
    with pytest.raises(ValueError, match=r"data\.index must be a path, or 'off' in quotes, got"):
        DataConfig(index="False")


def test_several_data_sets_share_a_folder(tmp_path, settled):
    for name in ("one", "two"):
        write_videos(tmp_path / name)
    sources = [
        {"source": "vos_folder", "root": str(tmp_path / name / "data"), "name": name}
        for name in ("one", "two")
    ]
    for index, count in (("off", 0), (str(tmp_path / "kept"), 2)):
        VideoDataModule(DataConfig(sources=sources, num_frames=2, index=index), 32, 0).setup()
        assert len(list((tmp_path / "kept").glob("*.json"))) == count


def test_off_writes_nothing(tmp_path, monkeypatch, settled):
    write_videos(tmp_path)
    monkeypatch.chdir(tmp_path)
    start(tmp_path, index="off")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_index_that_cannot_be_written_is_no_error(tmp_path, monkeypatch, settled, caplog):
    write_videos(tmp_path)
    start(tmp_path)
    before = (tmp_path / "index.json").read_bytes()
    make_video(tmp_path / "data", "d")

    def refuse(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(Path, "replace", refuse)
        start(tmp_path)
    assert "disk full" in caplog.text
    assert (tmp_path / "index.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "index.json"]


def test_a_mask_that_was_rewritten_in_place_is_noticed_when_it_is_read(tmp_path, settled):
    data = write_videos(tmp_path)
    start(tmp_path)
    path = data / "Annotations/c/00000.png"
    path.write_bytes(b"damaged")
    module = start(tmp_path)
    with pytest.raises(DataError, match=r"c/00000\.png cannot be read"):
        module.datasets["val"][0]
    Image.new("P", (7, 7)).save(path)
    with pytest.raises(DataError, match=r"c/00000\.png is 7 x 7 pixels, expected"):
        start(tmp_path).datasets["val"][0]
    save_mask(path, label_map())
    assert start(tmp_path).datasets["val"][0].frames[0].objects[0].frame_index == 1


def test_videos_without_an_object_are_looked_at_again(tmp_path, settled):
    data = write_videos(tmp_path)
    make_video(data, "b", objects=((),) * 5)
    with pytest.warns(UserWarning, match=r"skipped training videos: 1 with no object .*\(b\)"):
        start(tmp_path)
    save_mask(data / "Annotations/b/00000.png", label_map(1))  # in its place
    assert [name for name, *_ in found(start(tmp_path))["train"]] == ["a", "b"]


def test_remarks_are_told_again_until_their_file_changes(tmp_path, settled):
    data = write_videos(tmp_path)
    path = data / "Annotations/a/00000.png"
    labels = label_map(1)
    labels[0, :9] = 255
    Image.fromarray(labels).save(path)
    for _ in range(2):
        with pytest.warns(UserWarning, match="has value 255 beside other ids"):
            start(tmp_path)
    save_mask(path, label_map(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start(tmp_path)


def test_stamps_tell_files_apart_that_were_written_together(tmp_path):
    one, two, strange = (str(tmp_path / name) for name in ("one", "two", "\ud800"))
    Path(one).write_text("1")
    os.link(one, two)
    assert stamp_of([one]) == stamp_of([one])
    assert len({stamp_of(paths)[0] for paths in ([one], [two], [one, two], [strange], [])}) == 5


def test_packed_items_are_those_that_were_packed():
    items = [{"a": [1, 2.5]}, "", ("text", None), list(range(1000))]
    packed = Packed(items)
    assert [packed[i] for i in (3, 0, 2, 1)] == [items[i] for i in (3, 0, 2, 1)]
    assert pickle.loads(pickle.dumps(packed))[2] == items[2]
