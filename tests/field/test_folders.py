"""Folders and files of other systems and habits: what is merely untidy works."""

import contextlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from field_helpers import (
    ROOT,
    SOURCES,
    TINY,
    Made,
    check,
    check_set,
    picture,
    read_all,
    run_here,
    working_in,
    write_set,
)
from other_sets import OTHER_SETS, as_auto
from PIL import Image

from core.data import DataError
from core.data.check import main as check_main

BOM = "\ufeff"
JUNK = b"\0\5\26\7\0\2\0\0Mac OS X        "


def num_frames(made, video=0) -> int:
    """Return the frames of a video of a data set, or of its training clips."""
    reader = made.reader() if isinstance(made, Made) else made.datasets["train"].reader
    return len(reader.video(video).frames)


def reads_everything(made, *more) -> None:
    """Check that each video has its four frames and two objects."""
    outcome = check_set(made, *more)
    outcome.went_well()
    seen = re.findall(r"4 annotated frames \(0 empty\), 2 (objects|categories)", outcome.printed)
    assert len(seen) == 2, outcome.printed
    assert num_frames(made) == 4


FILES = [
    ".DS_Store",
    "._00000.png",
    "._00000.jpg",
    "Thumbs.db",
    "desktop.ini",
    "README.txt",
    "notes.md",
]
FOLDERS = [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbnails"]
PLACES = {
    "vos_folder": ["Annotations/a", "JPEGImages/a", "Annotations", "JPEGImages", "."],
    "png_folders": [
        "Annotations/a/1",
        "Annotations/a",
        "JPEGImages/a",
        "Annotations",
        "JPEGImages",
    ],
    "sav": ["JPEGImages/a", "JPEGImages", "."],
    "coco_video": ["frames/a", "frames", "."],
}
EVERYWHERE = [(source, place) for source in SOURCES for place in PLACES[source]]


@pytest.mark.parametrize(("source", "place"), EVERYWHERE)
def test_files_of_other_programs_are_skipped(folder, source, place):
    made = write_set(folder, source)
    for name in FILES:
        (folder / place / name).write_bytes(JUNK)
    reads_everything(made)
    assert not [line for line in read_all(made).lines if "skipped" not in line]


@pytest.mark.parametrize("name", [".DS_Store", "._00000.png", "Thumbs.db", "README.txt"])
def test_each_such_file_beside_masks_is_skipped(folder, name):
    made = write_set(folder)
    (folder / "Annotations" / "a" / name).write_bytes(JUNK)
    reads_everything(made)


@pytest.mark.parametrize(("source", "place"), EVERYWHERE)
def test_folders_of_other_programs_are_skipped(folder, source, place):
    made = write_set(folder, source)
    for name in FOLDERS:
        (folder / place / name).mkdir()
        (folder / place / name / "00000.png").write_bytes(JUNK)
        (folder / place / name / "00000-checkpoint.jpg").write_bytes(JUNK)
    reads_everything(made)


def test_hidden_copies_of_annotation_files_are_skipped(folder):
    made = write_set(folder, "sav")
    (folder / "._a_manual.json").write_bytes(JUNK)
    reads_everything(made)


def test_hidden_files_are_not_in_the_way_of_training(monkeypatch, folder, tmp_path):
    made = write_set(folder)
    for place in PLACES["vos_folder"]:
        for name in FILES:
            (folder / place / name).write_bytes(JUNK)
    ran = run_here(monkeypatch, tmp_path, *TINY, "logger=csv", *made.overrides())
    ran.went_well()


def with_bom(path: Path, encoding="utf-8") -> None:
    path.write_bytes((BOM + path.read_text(encoding="utf-8")).encode(encoding))


@pytest.mark.parametrize("setting", ["train_list", "val_list"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lists_may_begin_with_a_bom(folder, setting, newline):
    made = write_set(folder, videos=("cat_01", "dog_01", "fox_01"))
    names = ["cat_01", "dog_01"]
    (folder / "list.txt").write_text(BOM + newline.join(names), encoding="utf-8", newline="")
    made.fields[setting] = "list.txt"
    assert check_set(made).end == ""
    module = made.module()
    stages = {stage: len(data.sources) for stage, data in module.datasets.items()}
    assert stages == ({"train": 1, "val": 1} if setting == "train_list" else {"train": 1, "val": 2})
    assert "cat_01" in [module.clip_name(stage, 0) for stage in stages]


def test_lists_that_windows_writes_are_read_or_refused_by_name(folder):
    made = write_set(folder, videos=("cat_01", "dog_01"))
    (folder / "list.txt").write_bytes((BOM + "cat_01\r\n").encode("utf-16-le"))
    made.fields["val_list"] = "list.txt"
    outcome = check_set(made)
    if outcome.end:
        outcome.is_refused("list.txt", ("utf-8", "encod"))


def test_davis_lists_may_begin_with_a_bom(folder):
    made = write_set(folder, videos=("cat_01", "dog_01"))
    lists = folder / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text(f"{BOM}cat_01\n", encoding="utf-8")
    (lists / "val.txt").write_text(f"{BOM}dog_01\n", encoding="utf-8")
    reads_everything(made)


@pytest.mark.parametrize("setting", ["train_annotations", "val_annotations"])
def test_coco_files_may_begin_with_a_bom(folder, setting):
    made = write_set(folder, "coco_video")
    shutil.copy(made.json, folder / "bom.json")
    with_bom(folder / "bom.json")
    made.fields[setting] = str(folder / "bom.json")
    check_set(made).went_well()


def test_annotations_of_sav_may_begin_with_a_bom(folder):
    made = write_set(folder, "sav")
    with_bom(folder / "a_manual.json")
    reads_everything(made)


def test_names_of_a_data_set_may_begin_with_a_bom(folder):
    made = write_set(folder)
    meta = {"videos": {"a": {"objects": {"1": {"category": "cat"}}}}}
    (folder / "meta.json").write_text(BOM + json.dumps(meta), encoding="utf-8")
    reads_everything(made)
    assert made.module().object_names("train", 0) == {1: "cat"}


def rename_some(paths, suffix, every) -> None:
    for k, path in enumerate(sorted(paths)):
        if k % every == 0:
            path.rename(path.with_suffix(suffix))


def test_a_bom_between_the_lines_of_a_list_is_skipped(folder):
    """Lists that were put together with ``cat`` have one in the middle."""
    made = write_set(folder, videos=("cat_01", "dog_01", "fox_01"))
    (folder / "list.txt").write_text(
        f"{BOM}cat_01\r\n{BOM}dog_01/\r\n", encoding="utf-8", newline=""
    )
    made.fields["train_list"] = "list.txt"
    made.fields["val_list"] = "list.txt"
    module = made.module()
    assert [module.clip_name("train", k) for k in range(2)] == ["cat_01", "dog_01"]


@pytest.mark.parametrize("image_root", ["frames", None])
def test_paths_of_windows_are_read(folder, image_root):
    made = write_set(folder, "coco_video")

    def change(content):
        for image in content["images"]:
            name = image["file_name"].replace("/", "\\")
            image["file_name"] = name if image_root else f"frames\\{name}"

    made.edit(change)
    assert num_frames(made.module(image_root=image_root and str(folder / image_root)))


def test_a_path_of_windows_cannot_leave_its_folder(folder):
    made = write_set(folder, "coco_video")
    shutil.copy(folder / "frames" / "a" / "00000.jpg", folder / "secret.jpg")
    made.edit(lambda c: c["images"][0].update(file_name="..\\secret.jpg"))
    check_set(made).is_refused("train.json", "outside", "image_root")


def test_a_name_with_a_backslash_is_read_as_it_is(folder):
    made = write_set(folder, "coco_video")
    (folder / "frames" / "a" / "00000.jpg").rename(folder / "frames" / "a" / "x\\0.jpg")
    made.edit(lambda c: c["images"][0].update(file_name="a/x\\0.jpg"))
    reader = made.reader()
    assert reader.image(reader.video(0).frames[0]).size == (64, 48)


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".webp", ".TIFF"])
@pytest.mark.parametrize("every", [1, 2], ids=["all", "half"])
@pytest.mark.parametrize("source", SOURCES[:3])
def test_frames_of_other_formats_are_read(folder, source, every, suffix):
    made = write_set(folder, source)
    for path in sorted((folder / "JPEGImages").rglob("*.jpg"))[::every]:
        with Image.open(path) as image:
            image.save(path.with_suffix(suffix))
        path.unlink()
    assert num_frames(made.module()) == 4


@pytest.mark.parametrize("source", ["vos_folder", "png_folders"])
@pytest.mark.parametrize("suffix", [".jpg", ".BMP", ".tif"])
def test_masks_of_which_some_are_no_png_are_refused(folder, source, suffix):
    made = write_set(folder, source)
    path = next((folder / "Annotations" / "a").rglob("00002.png"))
    with Image.open(path) as image:
        image.convert("L").save(path.with_suffix(suffix))
    read_all(made).went_well()  # an overlay beside the mask
    path.unlink()
    read_all(made).is_refused(f"00002{suffix}", "PNG")


BAD_FILES = {
    "pipe": lambda path: os.mkfifo(path),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("spoil", BAD_FILES.values(), ids=BAD_FILES)
@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("vos_folder", "JPEGImages/a/00000.jpg"),
        ("vos_folder", "Annotations/a/00000.png"),
        ("vos_folder", "list.txt"),
        ("coco_video", "train.json"),
        ("coco_video", "frames/a/00000.jpg"),
        ("sav", "a_manual.json"),
    ],
)
def test_what_is_no_file_is_refused_at_once(folder, source, name, spoil):
    made = write_set(folder, source)
    (folder / name).unlink(missing_ok=True)
    spoil(folder / name)
    if name == "list.txt":
        made.fields["train_list"] = name
    read_all(made).is_refused(name)


@pytest.mark.parametrize("field", ["root", "image_folder", "annotation_folder", "val_list"])
def test_names_longer_than_any_file_are_refused(folder, field):
    made = write_set(folder)
    made.fields[field] = "x" * 5000
    read_all(made).is_refused(f"data.{field}=xxx", "does not exist")


@pytest.mark.parametrize("field", ["train_annotations", "image_root"])
def test_names_longer_than_any_file_are_refused_for_coco_too(folder, field):
    made = write_set(folder, "coco_video")
    made.fields[field] = "x" * 5000
    read_all(made).is_refused(f"data.{field}=xxx", "does not exist")


def test_line_breaks_and_bytes_that_are_no_text_in_names_do_not_break_a_line(folder):
    made = write_set(folder, videos=("a\nb", os.fsdecode(b"b\xff")))
    reads_everything(made)
    (folder / "Annotations" / "a\nb" / "00000.png").write_bytes(JUNK)
    check_set(made).is_refused("a\\nb/00000.png")


NUMBERS = {
    "more digits than Python reads": "1" * 5000,
    "infinite rate": '{"masklet": [], "fps": [1e999]}',
    "deeper than Python reads": "[" * 100000,
    "half a character": '{"masklet": ["\\ud800"]}',
}


@pytest.mark.parametrize("text", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize(
    ("source", "name"), [("sav", "a_manual.json"), ("coco_video", "train.json")]
)
def test_odd_json_is_refused_by_name(folder, source, name, text):
    made = write_set(folder, source)
    (folder / name).write_text(text)
    read_all(made).is_refused(name)


def with_damaged_frame(folder):
    made = write_set(folder)
    path = folder / "JPEGImages" / "a" / "00001.jpg"
    path.write_bytes(path.read_bytes()[:300])
    return made


def test_a_damaged_frame_is_refused_in_one_sentence_by_a_worker_too(folder):
    module = with_damaged_frame(folder).module(num_workers=1, clips_per_video=20)
    with pytest.raises(DataError, match=rf"^{folder}.*00001\.jpg cannot be read[^\n]*$"):
        list(module.train_dataloader())


def test_a_damaged_frame_ends_training_in_one_sentence(monkeypatch, folder, tmp_path):
    made = with_damaged_frame(folder)
    # every start of a clip comes up
    clips = ["data.clips_per_video=20", "trainer.max_steps=20", "trainer.limit_val_batches=0"]
    ran = run_here(monkeypatch, tmp_path, *TINY, *clips, "logger=csv", *made.overrides())
    ran.is_refused("00001.jpg", "cannot be")


@pytest.mark.parametrize("source", ["vos_folder", "png_folders"])
@pytest.mark.parametrize("every", [1, 2], ids=["all", "half"])
@pytest.mark.parametrize("suffix", [".PNG", ".Png"])
def test_masks_may_have_suffixes_in_capitals(folder, source, every, suffix):
    made = write_set(folder, source)
    rename_some((folder / "Annotations").rglob("*.png"), suffix, every)
    reads_everything(made)


@pytest.mark.parametrize("source", SOURCES[:3])
@pytest.mark.parametrize("every", [1, 2], ids=["all", "half"])
@pytest.mark.parametrize("suffix", [".JPG", ".JPEG", ".Jpg", ".jpeg"])
def test_frames_may_have_suffixes_in_capitals(folder, source, every, suffix):
    made = write_set(folder, source)
    rename_some((folder / "JPEGImages").rglob("*.jpg"), suffix, every)
    reads_everything(made)


def write_movie(path, num_frames=16) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 24, (64, 48))
    for t in range(num_frames):
        writer.write(np.ascontiguousarray(picture(t)[..., ::-1]))
    writer.release()


def test_films_of_sav_may_have_a_suffix_in_capitals(folder):
    made = write_set(folder, "sav")
    shutil.rmtree(folder / "JPEGImages")
    for name in "ab":
        write_movie(folder / f"{name}.mp4")
        (folder / f"{name}.mp4").rename(folder / f"{name}.MP4")
    reads_everything(made)


def finds_or_helps(made, *overrides) -> None:
    """Check that the set is read, or refused with settings that work."""
    outcome = check(made.root.parent / "checked", "model.image_size=64", *overrides)
    if outcome.end:
        outcome.is_refused()
        found = re.findall(r"\b(data(?:\.\w+)?)=['\"]?([^\s,;()'\"]+)", outcome.end)
        hints = [f"{key}={value.rstrip(':.')}" for key, value in found]
        hints = [hint for hint in hints if hint not in overrides]
        assert hints, f"no setting is named that would help: {outcome.end}"
        keys = {hint.split("=")[0] for hint in hints}
        kept = [override for override in overrides if override.split("=")[0] not in keys]
        outcome = check(made.root.parent / "checked", "model.image_size=64", *kept, *hints)
        assert outcome.end == "", f"{hints} does not work: {outcome.end}"
    seen = re.findall(r"4 annotated frames \(0 empty\), 2 (objects|categories)", outcome.printed)
    assert len(seen) == 2, outcome.printed


def one_level_down(made, name) -> None:
    for kind in ("JPEGImages", "Annotations"):
        (made.root / "moving").mkdir()
        for path in (made.root / kind).iterdir():
            path.rename(made.root / "moving" / path.name)
        (made.root / "moving").rename(made.root / kind / name)


@pytest.mark.parametrize("source", ["vos_folder", "png_folders"])
@pytest.mark.parametrize("name", ["480p", "Full-Resolution", "1080p"])
def test_davis_of_every_resolution_is_found(folder, source, name):
    made = write_set(folder, source)
    one_level_down(made, name)
    finds_or_helps(made, *made.overrides())


def test_davis_of_two_resolutions_is_read_at_the_usual_one(folder):
    made = write_set(folder)
    for kind in ("JPEGImages", "Annotations"):
        shutil.copytree(folder / kind, folder / "copy")
        for path in list((folder / kind).iterdir()):
            shutil.rmtree(path)
        shutil.copytree(folder / "copy", folder / kind / "Full-Resolution")
        shutil.copytree(folder / "copy", folder / kind / "480p")
        shutil.rmtree(folder / "copy")
    reads_everything(made)
    assert "480p" in made.reader().video(0).frames[0].image_path


@pytest.mark.parametrize("name", ["train", "DAVIS", "valid"])
def test_a_root_that_is_one_level_too_high_is_found_or_named(folder, name):
    made = write_set(folder)
    (folder / name).mkdir()
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind).rename(folder / name / kind)
    finds_or_helps(made, *made.overrides())


def test_a_root_that_is_one_level_too_low_is_found_or_named(folder):
    made = write_set(folder)
    overrides = ["data=vos_folder", "data.num_frames=2", "data.num_workers=0"]
    finds_or_helps(made, *overrides, f"data.root={folder / 'JPEGImages'}")


@pytest.mark.parametrize(
    ("source", "other"), [("vos_folder", "png_folders"), ("png_folders", "vos_folder")]
)
def test_the_hint_to_the_other_kind_of_folder_works(folder, source, other):
    made = write_set(folder, source)
    finds_or_helps(made, *[f"data={other}", *made.overrides()[1:]])


def spoil_masks(made, name) -> None:
    shutil.rmtree(made.masks / name)


def empty_masks(made, name) -> None:
    spoil_masks(made, name)
    (made.masks / name).mkdir()


def other_numbers(made, name) -> None:
    for path in sorted((made.masks / name).rglob("*.png")):
        path.rename(path.with_name(f"9{path.name}"))


def no_frames(made, name) -> None:
    for path in (made.frames / name).iterdir():
        path.unlink()


def unlabelled_masklet(made, name) -> None:
    content = {"masklet": [[None, None]] * 4, "fps": [6]}
    (made.root / f"{name}_manual.json").write_text(json.dumps(content))


def empty_masklet(made, name) -> None:
    (made.root / f"{name}_manual.json").write_text(json.dumps({"masklet": [], "fps": [6]}))


def no_film(made, name) -> None:
    shutil.rmtree(made.frames / name)


def no_annotations(made, name) -> None:
    def forget(content):
        ids = {image["id"] for image in content["images"] if image["video_id"] == name}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in ids]

    made.edit(forget)


def no_segmentations(made, name) -> None:
    def forget(content):
        ids = {image["id"] for image in content["images"] if image["video_id"] == name}
        for item in content["annotations"]:
            if item["image_id"] in ids:
                item["segmentation"] = None

    made.edit(forget)


WITHOUT = {
    "folder of masks": ("vos_folder", spoil_masks),
    "masks": ("vos_folder", empty_masks),
    "masks of its frames": ("vos_folder", other_numbers),
    "frames": ("vos_folder", no_frames),
    "folder of objects": ("png_folders", spoil_masks),
    "objects": ("png_folders", empty_masks),
    "masks of its frames (objects)": ("png_folders", other_numbers),
    "labelled frames (SA-V)": ("sav", unlabelled_masklet),
    "masklet (SA-V)": ("sav", empty_masklet),
    "frames (SA-V)": ("sav", no_film),
    "empty folder of frames (SA-V)": ("sav", no_frames),
    "annotations (COCO)": ("coco_video", no_annotations),
    "segmentations (COCO)": ("coco_video", no_segmentations),
}
NAMES = ("one", "three", "two")


@pytest.mark.parametrize(
    ("source", "spoil", "name"),
    [
        *((source, spoil, "one") for source, spoil in WITHOUT.values()),
        ("vos_folder", spoil_masks, "two"),
        ("sav", no_film, "three"),
    ],
    ids=[*WITHOUT, "folder of masks of the last", "frames of another (SA-V)"],
)
def test_one_video_of_three_without_masks_is_skipped_with_a_warning(folder, source, spoil, name):
    made = write_set(folder, source, videos=NAMES)
    spoil(made, name)
    # with the default split validation has one video alone: give both stages all three
    if source != "coco_video":
        for stage in ("train", "val"):
            (folder / f"{stage}.txt").write_text("\n".join(NAMES))
            made.fields[f"{stage}_list"] = f"{stage}.txt"
    else:
        made.fields["val_annotations"] = str(made.json)
    outcome = check_set(made)
    outcome.went_well()
    assert outcome.says("skipped", name)
    module = made.module()
    for stage, data in module.datasets.items():
        used = {data.reader.names[clips.video] for clips in data.sources}
        assert used == {*NAMES} - {name}, stage


@pytest.mark.parametrize(
    ("source", "spoil"),
    [item for key, item in WITHOUT.items() if "COCO" not in key],
    ids=[key for key in WITHOUT if "COCO" not in key],
)
def test_a_set_whose_videos_all_lack_masks_is_refused(folder, source, spoil):
    made = write_set(folder, source)
    for name in "ab":
        spoil(made, name)
    check_set(made).is_refused(("frame", "mask"))


PICTURES = ["visualizations.enabled=true", "visualizations.every_n_steps=1"]


def run_py(*arguments, cwd, module=False, **env) -> subprocess.CompletedProcess:
    command = ["-m", "core.data"] if module else [str(ROOT / "train.py")]
    return subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=cwd,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env},
        timeout=240,
    )


@pytest.mark.parametrize(
    "encoding",
    [
        pytest.param("gbk", marks=pytest.mark.long),
        pytest.param("ascii", marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_pictures_are_kept_whatever_the_terminal_can_write(tmp_path, encoding):
    ran = run_py(*TINY, *PICTURES, "hydra.run.dir=run", cwd=tmp_path, PYTHONIOENCODING=encoding)
    said = (ran.stdout + ran.stderr).decode(encoding, "replace")
    assert ran.returncode == 0, said[-2000:]
    assert "Traceback" not in said
    assert "cannot start" not in said + (tmp_path / "run" / "train.log").read_text("utf-8")
    pictures = list((tmp_path / "swanlog").glob("run-*/media/image/*.png"))
    assert len(pictures) == 4, said[-2000:]


@pytest.mark.slow
@pytest.mark.long
def test_pictures_are_kept_in_a_locale_without_unicode(tmp_path):
    ran = run_py(
        *TINY, *PICTURES, "hydra.run.dir=run", cwd=tmp_path,
        LC_ALL="C", LANG="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert len(list((tmp_path / "swanlog").glob("run-*/media/image/*.png"))) == 4


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "cp1252"])
def test_the_check_names_videos_whatever_the_terminal_can_write(
    monkeypatch, folder, tmp_path, encoding
):
    made = write_set(folder, "coco_video", videos=("vidéo", "视频"))
    made.edit(lambda c: c["categories"][0].update(name="手术钳 ✂️"))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    with working_in(tmp_path):
        check_main(["model.image_size=64", *made.overrides()])
    terminal.flush()
    said = terminal.buffer.getvalue().decode(encoding)
    assert said.count("4 annotated frames") == 2
    assert len(list((tmp_path / "outputs" / "data_check").glob("*.png"))) == 2


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("encoding", ["gbk", "ascii"])
def test_a_refusal_is_one_sentence_whatever_the_terminal_can_write(folder, tmp_path, encoding):
    arguments = ["data=vos_folder", f"data.root='{folder / 'vidéo ✂️ 视频'}'"]
    for module in (False, True):
        ran = run_py(*arguments, cwd=tmp_path, module=module, PYTHONIOENCODING=encoding)
        said = ran.stderr.decode(encoding, "replace").strip()
        assert ran.returncode == 1
        assert said.startswith("error: "), said
        assert "\n" not in said


def make_n(*arguments) -> str:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    # -W: as if nothing were installed yet
    command = ["make", "-n", "-W", "pyproject.toml", *arguments]
    env = {"PATH": os.environ["PATH"]}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_peers_of_the_benchmarks_have_an_environment_of_their_own():
    """One of them brings `opencv-python`, whose files replace those of the headless one."""
    installs = [line for line in make_n("bench").splitlines() if "pip install" in line]
    peers = [line for line in installs if "bench" in line or "mmengine" in line]
    assert peers
    for line in peers:
        python = line.split(" -m pip")[0].split()[-1]
        assert not python.startswith(".venv/"), line
        assert not python.startswith(f"{ROOT}/.venv/"), line


def test_nothing_that_training_installs_brings_opencv_with_libgl():
    text = (ROOT / "pyproject.toml").read_text()
    wanted = re.search(r"\ndependencies = \[(.*?)\n\]", text, re.S)[1]
    assert "opencv-python-headless" in wanted
    assert not re.search(r"opencv-python\b(?!-headless)", wanted)


def any_file(rng: random.Random, root: Path) -> Path:
    return rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))


def junk(rng, made) -> None:
    folders = sorted(path for path in made.root.rglob("*") if path.is_dir())
    name = rng.choice([*FILES, "x.png", "x.jpg", "1e3.png", "-1.png", "².png", "00000", "a\nb.png"])
    (rng.choice([made.root, *folders]) / name).write_bytes(rng.choice([JUNK, b"", b"\xff\xd8"]))


def damage(rng, made) -> None:
    path = any_file(rng, made.root)
    content = bytearray(path.read_bytes())
    how = rng.randrange(4)
    if how == 0:
        content = content[: rng.randrange(len(content) + 1)]
    elif how == 1:
        for _ in range(8):
            if content:
                content[rng.randrange(len(content))] = rng.randrange(256)
    elif how == 2:
        content = bytearray(rng.randbytes(rng.choice([0, 1, 50])))
    else:
        content = bytearray(BOM.encode()) + content
    path.write_bytes(content)


def replace_by_other_kind(rng, made) -> None:
    path = any_file(rng, made.root)
    path.unlink()
    how = rng.randrange(5)
    if how == 0:
        path.mkdir()
    elif how == 1:
        path.symlink_to(path)
    elif how == 2:
        path.symlink_to(path.with_name("nothing"))
    elif how == 3:
        os.mkfifo(path)


def rename(rng, made) -> None:
    path = any_file(rng, made.root)
    names = [f"{path.stem}{path.suffix.upper()}", f"0{path.name}", "视频.png", "1.png", "a b.jpg"]
    path.rename(path.with_name(rng.choice(names)))


def move_folder(rng, made) -> None:
    folders = sorted(path for path in made.root.rglob("*") if path.is_dir())
    path = rng.choice(folders)
    if rng.random() < 0.5:
        shutil.rmtree(path)
    else:
        path.rename(path.with_name(rng.choice(["480p", "Full-Resolution", "c", ".hidden", "1"])))


def other_picture(rng, made) -> None:
    pictures = [p for p in sorted(made.root.rglob("*")) if p.suffix in (".png", ".jpg")]
    size = rng.choice([(64, 48), (48, 64), (1, 1), (64, 1), (3, 700)])
    mode = rng.choice(["L", "RGB", "P", "1", "I", "I;16", "RGBA", "LA", "CMYK", "F"])
    form = {"CMYK": "JPEG", "F": "TIFF"}.get(mode, rng.choice(["PNG", "PNG", "TIFF"]))
    if pictures:
        Image.new(mode, size, rng.choice([0, 1])).save(rng.choice(pictures), format=form)


ODD_VALUES = [
    None, True, 0, -1, 1, 2**40, 0.5, 1e9, float("nan"), float("inf"), "", "x", "00001.jpg",
    "../../x", [], [1], [[1, 2, 3]], [[[1]]], {}, {"a": 1}, {"size": [48, 64], "counts": [9]},
    {"size": [48, 64], "counts": "1"}, "a\nb", "视频", "\x00",
    10**30, -0.5, "\ud800", "..\\x", [[0, 0, 1, 0, 1, 1]], [[0, 0, 1e300, 0, 1, 1]], "1e999",
]  # fmt: skip


def change_json(rng, made) -> None:
    for path in sorted(made.root.glob("*.json"))[:1]:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or not content:
            return
        for _ in range(rng.randint(1, 3)):
            depth = rng.randint(1, 6)
            node, key = content, rng.choice(sorted(content))
            while depth > 0 and isinstance(node[key], (dict, list)) and node[key]:
                node = node[key]
                keys = sorted(node) if isinstance(node, dict) else range(len(node))
                key = rng.choice(keys)
                depth -= 1
            if rng.random() < 0.3:
                del node[key]
            else:
                node[key] = rng.choice(ODD_VALUES)
            if not content:
                break
        path.write_text(json.dumps(content))


def change_settings(rng, made) -> None:
    made.fields |= rng.choice(
        [
            {"num_frames": 5}, {"num_frames": 1}, {"frame_stride": 3}, {"max_objects": 1},
            {"val_batch_size": 2}, {"clips_per_video": 3}, {"val_fraction": 0.99},
            {"num_categories": 1}, {"num_categories": 9}, {"val_num_frames": 3},
            {"max_image_pixels": 2000}, {"image_folder": "."}, {"annotation_folder": "JPEGImages"},
            {"objects": "instances"},
        ]
    )  # fmt: skip


def add_list(rng, made) -> None:
    lines = ["a", "b", "c", "", "a.mp4", BOM + "a", "a b", "../a", "#a", "a\x00", "视频"]
    text = "\n".join(rng.sample(lines, rng.randint(0, 4)))
    encoding = rng.choice(["utf-8", "utf-8", "utf-16", "gbk", "latin-1"])
    (made.root / "list.txt").write_bytes(text.encode(encoding, "replace"))
    made.fields[rng.choice(["train_list", "val_list"])] = "list.txt"


def turn(rng, made) -> None:
    pictures = [p for p in sorted(made.root.rglob("*.jpg")) if p.is_file()]
    exif = Image.Exif()
    exif[0x0112] = rng.choice([0, 3, 5, 6, 8, 9, 255])
    for path in pictures:
        Image.fromarray(picture()).save(path, exif=exif)


SPOIL = [
    junk, damage, replace_by_other_kind, rename, move_folder, other_picture, change_json,
    change_json, change_settings, add_list, turn,
]  # fmt: skip


def write_any(rng, folder):
    kind = rng.choice([*SOURCES, *OTHER_SETS])
    write = OTHER_SETS.get(kind, lambda root, n: write_set(root, kind, num_frames=n))
    made = write(folder, 3)
    return as_auto(made) if rng.random() < 0.15 else made


def as_overrides(made) -> list[str]:
    settings = made.settings()
    return [f"data={made.source}", *(f"data.{key}='{value}'" if isinstance(value, str)
            else f"data.{key}={value}" for key, value in settings.items())]  # fmt: skip


@pytest.mark.parametrize("kind", OTHER_SETS)
def test_the_check_reads_sets_of_other_tools(folder, tmp_path, kind):
    made = OTHER_SETS[kind](folder, 3)
    assert check(tmp_path / "out", "model.image_size=64", *as_overrides(made)).end == ""


@pytest.mark.fuzz
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, 6))]
)
def test_spoilt_data_sets_are_read_or_refused_in_one_sentence(tmp_path, part):
    faults = []
    for seed in range(50 * part, 50 * part + 50):
        rng = random.Random(seed)
        folder = tmp_path / str(seed) / "set"
        folder.mkdir(parents=True)
        made = write_any(rng, folder)
        done = []
        for spoil in rng.choices(SPOIL, k=rng.randint(1, 3)):
            # what an earlier change left may be no file, no picture or no JSON any more
            with contextlib.suppress(OSError, ValueError, IndexError):
                spoil(rng, made)
                done.append(spoil.__name__)
        try:
            outcome = check(folder.parent / "out", "model.image_size=64", *as_overrides(made))
            end = outcome.end
            fine = not end or (end.startswith("error: ") and "\n" not in end)
        except (Exception, pytest.fail.Exception) as error:
            fine, end = False, f"{type(error).__name__}: {error}"
        if not fine:
            faults.append((seed, made.source, done, end[:200]))
        shutil.rmtree(folder.parent)
    assert not faults, f"{len(faults)} of 50:\n" + "\n".join(map(str, faults))
