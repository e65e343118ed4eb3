"""Each data format read from small files, how clips are cut, and what is refused."""

import json
import random
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scenes import HEIGHT, WIDTH, coco_content, label_map, make_video, rle, save_frame

from core.config import AugmentationConfig, DataConfig
from core.data import DataError, VideoDataModule

NO_AUGMENTATION = AugmentationConfig(horizontal_flip=0)


def module_for(root, source="vos_folder", **fields) -> VideoDataModule:
    one_clip = {"clips_per_video": 1, "val_clips_per_video": 1}
    fields = {"num_frames": 3, "augmentation": NO_AUGMENTATION, **one_clip, **fields}
    if source != "coco_video":
        fields["root"] = str(root)
    module = VideoDataModule(DataConfig(source=source, **fields), 32, seed=0)
    module.setup()
    return module


def numbers_and_objects(clip) -> tuple[list[int], list[int]]:
    numbers = [frame.objects[0].frame_index for frame in clip.frames]
    return numbers, [item.object_id for item in clip.frames[0].objects]


def video_names(module, stage) -> list[str]:
    return [module.clip_name(stage, i) for i in range(len(module.datasets[stage]))]


@pytest.mark.filterwarnings("ignore:the data set has only one video")
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_vos_folder_reads_frames_and_masks(tmp_path, suffix):
    make_video(tmp_path, objects=((1, 3),) * 3, suffix=suffix)
    clip = module_for(tmp_path).datasets["val"][0]
    assert numbers_and_objects(clip) == ([0, 1, 2], [1, 3])
    assert clip.size == (HEIGHT, WIDTH)
    mask = clip.frames[0].objects[1].segment
    assert mask.shape == (32, 32)
    # rows 8..15 of 24 become 10.67..21.33 of 32; object 3 is in columns 16..23
    assert mask[12:20, 16:24].all()
    assert not mask[:, :16].any()
    assert not mask[:10].any()


def test_one_video_serves_both_splits_with_a_warning(tmp_path):
    make_video(tmp_path)
    with pytest.warns(UserWarning, match="one video, 'a': it is used for both training and valid"):
        module = module_for(tmp_path)
    assert video_names(module, "train") == video_names(module, "val") == ["a"]


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_late_objects_are_left_to_clips_that_start_with_them(tmp_path):
    make_video(tmp_path, objects=((), (1,), (1, 2), (1, 2), (2,)))
    module = module_for(tmp_path, max_objects=2)
    assert numbers_and_objects(module.datasets["val"][0]) == ([1, 2, 3], [1])
    seen = {tuple(numbers_and_objects(module.datasets["train"][e, 0])[0]) for e in range(30)}
    assert seen == {(1, 2, 3), (2, 3, 4)}
    last = next(
        clip
        for clip in (module.datasets["train"][e, 0] for e in range(30))
        if clip.frames[0].objects[0].frame_index == 2
    )
    # object 1 has left by the last frame, with an empty mask in its place
    gone = [item.segment.any().item() for item in last.frames[2].objects if item.object_id == 1]
    assert gone == [False]


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_jpegs_and_pngs_of_one_video_are_read_together(tmp_path):
    make_video(tmp_path, objects=((1,),) * 3)
    frame = tmp_path / "JPEGImages" / "a" / "00001"
    Image.open(frame.with_suffix(".jpg")).save(frame.with_suffix(".png"))
    frame.with_suffix(".jpg").unlink()
    assert numbers_and_objects(module_for(tmp_path).datasets["val"][0])[0] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_frames_without_masks_are_left_out(tmp_path):
    make_video(tmp_path, objects=((1,),) * 15, every=5)
    clip = module_for(tmp_path).datasets["val"][0]
    assert numbers_and_objects(clip)[0] == [0, 5, 10]


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_frame_stride_keeps_its_distance_in_every_phase(tmp_path):
    make_video(tmp_path, objects=((1,),) * 7)
    module = module_for(tmp_path, frame_stride=2)
    assert numbers_and_objects(module.datasets["val"][0])[0] == [0, 2, 4]
    clips = [numbers_and_objects(module.datasets["train"][e, 0])[0] for e in range(40)]
    assert {clip[0] for clip in clips} == {0, 1, 2}
    assert all(np.diff(clip).tolist() == [2, 2] for clip in clips)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_training_clip_starts_at_the_known_object_when_a_phase_has_none(tmp_path):
    make_video(tmp_path, objects=((), (1,), (), (1,), (), (1,)))
    module = module_for(tmp_path, num_frames=2, frame_stride=2)
    firsts = {numbers_and_objects(module.datasets["train"][e, 0])[0][0] for e in range(20)}
    assert firsts == {1, 3}


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_max_objects_limits_the_clip(tmp_path):
    make_video(tmp_path, objects=((1, 2, 3),) * 3)
    module = module_for(tmp_path, max_objects=2)
    assert numbers_and_objects(module.datasets["val"][0])[1] == [1, 2]
    drawn = {tuple(numbers_and_objects(module.datasets["train"][e, 0])[1]) for e in range(20)}
    assert all(len(ids) == 2 for ids in drawn)
    assert {k for ids in drawn for k in ids} == {1, 2, 3}


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_training_items_do_not_touch_the_global_generator(tmp_path):
    make_video(tmp_path)
    dataset = module_for(tmp_path).datasets["train"]
    random.seed(1)
    state, first = random.getstate(), dataset[3, 0]
    assert random.getstate() == state
    random.seed(2)
    assert numbers_and_objects(dataset[3, 0]) == numbers_and_objects(first)


def test_clips_per_video_draws_different_clips(tmp_path):
    for name in "ab":
        make_video(tmp_path, name, objects=((1,),) * 12)
    dataset = module_for(tmp_path, clips_per_video=8).datasets["train"]
    assert len(dataset) == 8
    assert len({tuple(numbers_and_objects(dataset[0, i])[0]) for i in range(8)}) > 1


def test_last_videos_by_name_are_for_validation(tmp_path):
    for name in "cabd":
        make_video(tmp_path, name)
    module = module_for(tmp_path, val_fraction=0.25)
    assert video_names(module, "train") == ["a", "b", "c"]
    assert video_names(module, "val") == ["d"]


def test_lists_choose_the_videos(tmp_path):
    for name in ("a", "b", "v1.2"):
        make_video(tmp_path, name)
    (tmp_path / "train.txt").write_text("a.mp4\nv1.2\n\n")
    (tmp_path / "val.txt").write_text("b\n")
    module = module_for(tmp_path, train_list=str(tmp_path / "train.txt"), val_list="val.txt")
    assert video_names(module, "train") == ["a", "v1.2"]
    assert video_names(module, "val") == ["b"]
    only_val = module_for(tmp_path, val_list="val.txt")
    assert video_names(only_val, "train") == ["a", "v1.2"]


def test_videos_listed_for_both_splits_are_named(tmp_path):
    for name in "ab":
        make_video(tmp_path, name)
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "val.txt").write_text("b\n")
    with pytest.warns(UserWarning, match=r"1 video is listed for both training and .* \(b\)"):
        module_for(tmp_path, train_list="train.txt", val_list="val.txt")


def test_davis_folders_and_lists_are_found(tmp_path):
    for name in "abc":
        make_video(tmp_path, name, between="480p")
    lists = tmp_path / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("c\n")
    (lists / "val.txt").write_text("a\n")
    module = module_for(tmp_path)
    assert video_names(module, "train") == ["c"]
    assert video_names(module, "val") == ["a"]


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_youtube_vos_names_come_from_meta_json(tmp_path):
    make_video(tmp_path)
    meta = {"videos": {"a": {"objects": {"1": {"category": "penguin", "frames": ["00000"]}}}}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert module_for(tmp_path).object_names("val", 0) == {1: "penguin"}


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_png_folders_read_one_folder_per_object(tmp_path):
    for t in range(3):
        save_frame(tmp_path / "JPEGImages" / "a" / f"{t:05d}.jpg", t)
        for k in range(2 if t < 2 else 1):
            mask = (label_map(k + 1) > 0).astype(np.uint8) * 255
            path = tmp_path / "Annotations" / "a" / f"{k:03d}" / f"{t:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
    clip = module_for(tmp_path, "png_folders").datasets["val"][0]
    # the official loader counts objects from 1
    assert numbers_and_objects(clip) == ([0, 1, 2], [1, 2])
    assert clip.frames[1].objects[1].segment[12:20, 8:16].all()
    assert not clip.frames[2].objects[1].segment.any()


def rename_all(folder, name: str) -> None:
    """Give every file the name that `name` makes of its number."""
    for path in sorted(folder.iterdir(), reverse=True):
        path.rename(folder / name.format(int(path.stem)))


def save_object_masks(root, name="a", objects=((1,),) * 6) -> None:
    for t, visible in enumerate(objects):
        for k in visible:
            path = root / "Annotations" / name / f"{k - 1:03d}" / f"{t:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((label_map(k) > 0).astype(np.uint8) * 255).save(path)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(
    ("frames", "masks"),
    [
        ("{}", "{}"),
        ("{:06d}", "{:06d}"),
        ("frame{:04d}", "frame{:04d}"),
        ("cat2_{}", "mask-{:03d}"),
    ],
)
def test_vos_folder_orders_frames_by_number_whatever_the_digits_and_what_is_before_them(
    tmp_path, suffix, frames, masks
):
    make_video(tmp_path, objects=((1,),) * 12, suffix=suffix)
    rename_all(tmp_path / "JPEGImages" / "a", frames + f".{suffix}")
    rename_all(tmp_path / "Annotations" / "a", masks + ".png")
    (tmp_path / "JPEGImages" / "a" / "Thumbs.db").touch()
    clip = module_for(tmp_path, num_frames=12).datasets["val"][0]
    assert numbers_and_objects(clip)[0] == list(range(12))
    levels = [frame.data[0].float().mean().item() for frame in clip.frames]
    assert levels == pytest.approx([10 * t for t in range(12)], abs=2)
    assert all(frame.objects[0].segment[12:20, :8].all() for frame in clip.frames)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
@pytest.mark.parametrize("digits", ["{}", "{:06d}"])
def test_png_folders_find_masks_whatever_the_digits(tmp_path, digits):
    make_video(tmp_path, objects=((),) * 12)
    shutil.rmtree(tmp_path / "Annotations")
    save_object_masks(tmp_path, objects=((1, 2),) * 12)
    rename_all(tmp_path / "Annotations" / "a" / "001", digits + ".png")
    clip = module_for(tmp_path, "png_folders", num_frames=12).datasets["val"][0]
    assert numbers_and_objects(clip) == (list(range(12)), [1, 2])
    assert all(frame.objects[0].segment[12:20, :8].all() for frame in clip.frames)
    assert all(frame.objects[1].segment[12:20, 8:16].all() for frame in clip.frames)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("digits", ["{}", "{:06d}"])
def test_sav_finds_and_orders_frames_whatever_the_digits(tmp_path, suffix, digits):
    write_sav(tmp_path, "v", suffix)
    rename_all(tmp_path / "JPEGImages" / "v", digits + f".{suffix}")
    clip = module_for(tmp_path, "sav", annotation_folder=".", num_frames=4).datasets["val"][0]
    assert numbers_and_objects(clip)[0] == [0, 4, 8, 12]
    levels = [frame.data[0].float().mean().item() for frame in clip.frames]
    assert levels == pytest.approx([0, 48, 96, 144], abs=2)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
@pytest.mark.parametrize("folder", ["JPEGImages", "Annotations"])
def test_two_files_of_one_frame_are_refused(tmp_path, folder):
    make_video(tmp_path)
    path = next((tmp_path / folder / "a").glob("00003.*"))
    shutil.copy(path, path.with_stem("3"))
    with pytest.raises(DataError, match=r"two files with number 3 \(00003\.\w+ and 3\.\w+\)"):
        module_for(tmp_path)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hand/00000.png", r"name is not a number \(hand\)"),
        ("000/of_1.png", r"name is not a number \(of_1\.png\)"),
        ("000/first.png", r"name is not a number \(first\.png\)"),
        ("0/00000.png", r"two files with number 0 \(0 and 000\)"),
    ],
    ids=["object", "mask", "another prefix", "twice"],
)
def test_bad_names_of_png_folders_are_refused(tmp_path, name, message):
    make_video(tmp_path, objects=((),) * 6)
    shutil.rmtree(tmp_path / "Annotations")
    save_object_masks(tmp_path)
    path = tmp_path / "Annotations" / "a" / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "Annotations" / "a" / "000" / "00000.png", path)
    with pytest.raises(DataError, match=message):
        module_for(tmp_path, "png_folders")


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_sav_labels_without_their_frames_are_refused(tmp_path):
    write_sav(tmp_path, "v", "jpg")
    for path in (tmp_path / "JPEGImages" / "v").iterdir():
        path.rename(path.with_stem(f"{int(path.stem) + 100:05d}"))
    with pytest.raises(DataError, match=r"annotates frames 0 to 12, none of which is among the 16"):
        module_for(tmp_path, "sav", annotation_folder=".")


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_sav_frames_taken_at_the_rate_of_the_labels_are_refused(tmp_path):
    """The second of six frames a second would get the mask of the fifth of 24."""
    write_sav(tmp_path, "v", "jpg")
    for path in (tmp_path / "JPEGImages" / "v").iterdir():
        if int(path.stem) > 3:
            path.unlink()
    with pytest.raises(DataError, match=r"only 1 of which is among the 4 frames of the video"):
        module_for(tmp_path, "sav", annotation_folder=".")


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_sav_without_any_frame_says_so(tmp_path):
    write_sav(tmp_path, "v", "jpg")
    content = json.loads((tmp_path / "v_manual.json").read_text())
    (tmp_path / "v_manual.json").write_text(json.dumps({"masklet": content["masklet"]}))
    for path in (tmp_path / "JPEGImages" / "v").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"JPEGImages/v has no frames, expected JPEG or PNG"):
        module_for(tmp_path, "sav", annotation_folder=".")


def test_linked_folders_of_sav_are_read_and_loops_are_not_followed(tmp_path):
    elsewhere, root = tmp_path / "disk", tmp_path / "set"
    for folder, name in ((elsewhere, "sav_000"), (root, "sav_001")):
        (folder / name).mkdir(parents=True)
        write_sav(folder, f"{name}/v_{name}", "mp4")
    (root / "sav_000").symlink_to(elsewhere / "sav_000")
    (root / "again").symlink_to(elsewhere / "sav_000")
    (root / "sav_001" / "up").symlink_to(root)
    (elsewhere / "sav_000" / "up").symlink_to(elsewhere / "sav_000")
    fields = {"annotation_folder": ".", "image_folder": "."}
    module = module_for(root, "sav", **fields)
    found = [*video_names(module, "train"), *video_names(module, "val")]
    assert len(found) == 2
    assert {name.rpartition("/")[2] for name in found} == {"v_sav_000", "v_sav_001"}


def write_sav(root, name, frames_as, num_labels=4) -> None:
    objects = [rle(label_map(1) > 0), rle(label_map(2) > 0)]
    masklet = [objects] * num_labels
    (root / f"{name}_manual.json").write_text(json.dumps({"masklet": masklet, "fps": [6]}))
    num_frames = 4 * num_labels
    if frames_as == "mp4":
        fourcc = cv2.VideoWriter_fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(root / f"{name}.mp4"), fourcc, 24, (WIDTH, HEIGHT))
        for t in range(num_frames):
            writer.write(np.full((HEIGHT, WIDTH, 3), 12 * t, np.uint8))
        writer.release()
    else:
        for t in range(num_frames):
            path = root / "JPEGImages" / name / f"{t:05d}.{frames_as}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (12 * t,) * 3).save(path)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
@pytest.mark.parametrize("frames_as", ["mp4", "jpg", "png"])
def test_sav_labels_every_fourth_frame(tmp_path, frames_as):
    write_sav(tmp_path, "sav_000001", frames_as)
    module = module_for(tmp_path, "sav", annotation_folder=".")
    clip = module.datasets["val"][0]
    assert numbers_and_objects(clip) == ([0, 4, 8], [0, 1])
    levels = [frame.data[0].float().mean().item() for frame in clip.frames]
    assert levels == pytest.approx([0, 48, 96], abs=6)
    assert clip.frames[2].objects[1].segment[12:20, 8:16].all()
    again = module.datasets["val"][0]
    assert all(torch.equal(a.data, b.data) for a, b in zip(clip.frames, again.frames, strict=True))


# what a file holds that Meta publishes, apart from its masks
PUBLISHED = {
    "video_id": "sav_000001", "video_duration": 0.7, "video_height": float(HEIGHT),
    "video_width": float(WIDTH), "video_resolution": float(HEIGHT * WIDTH),
    "video_environment": "Indoor", "video_split": "train", "masklet_id": [0, 1],
    "masklet_size_rel": [0.1, 0.1], "masklet_size_abs": [64.0, 64.0],
    "masklet_size_bucket": ["medium", "medium"], "masklet_visibility_changes": [0, 0],
    "masklet_first_appeared_frame": [0.0, 0.0], "masklet_frame_count": [4, 4],
    "masklet_edited_frame_count": [1, 1], "masklet_type": ["manual", "manual"],
    "masklet_stability_score": [None, None], "masklet_num": 2,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:the data set has only one video")
@pytest.mark.parametrize(
    ("told", "num_labels", "num_frames", "numbers"),
    [
        ({**PUBLISHED, "video_frame_count": 16.0}, 4, 16, [0, 4, 8]),
        # its last label is of its last frame, as in 121 labels of 481 frames
        ({**PUBLISHED, "video_frame_count": 13.0}, 4, 13, [0, 4, 8]),
        ({**PUBLISHED, "video_frame_count": 99.0}, 4, 16, [0, 4, 8]),
        ({"video_frame_count": 16}, 16, 16, [0, 1, 2]),
        ({"video_frame_count": 16}, 8, 16, [0, 2, 4]),
        ({}, 16, 16, [0, 1, 2]),
        ({}, 4, 16, [0, 4, 8]),
        ({"video_frame_count": None}, 4, 16, [0, 4, 8]),
        # nothing fits: as SA-V is
        ({}, 4, 60, [0, 4, 8]),
        ({"video_frame_count": 16, "fps": 24}, 4, 16, [0, 1, 2]),
        (None, 4, 16, [0, 1, 2]),
    ],
    ids=[
        "published", "last-frame", "wrong-count", "all", "every-second", "all-uncounted",
        "uncounted", "no-count", "no-fit", "fps-first", "list",
    ],
)  # fmt: skip
def test_sav_without_a_rate_labels_the_frames_that_fit(
    tmp_path, told, num_labels, num_frames, numbers
):
    for t in range(num_frames):
        save_frame(tmp_path / "JPEGImages" / "v" / f"{t:05d}.jpg", t)
    masklet = [[rle(label_map(1) > 0), rle(label_map(2) > 0)]] * num_labels
    content = masklet if told is None else {**told, "masklet": masklet}
    (tmp_path / "v_manual.json").write_text(json.dumps(content))
    module = module_for(tmp_path, "sav", annotation_folder=".")
    assert numbers_and_objects(module.datasets["val"][0])[0] == numbers


@pytest.mark.filterwarnings("ignore:the data set has only one video")
@pytest.mark.parametrize(
    "objects", [((1,),) * 6, ((1,), (1,), (1,), (), (), ()), ((1,), *[()] * 5)]
)
def test_clips_run_backwards_when_asked(tmp_path, objects):
    make_video(tmp_path, objects=objects)
    module = module_for(tmp_path, num_frames=3, clips_per_video=8, reverse_time_prob=1)
    for index in range(8):
        numbers, _ = numbers_and_objects(module.datasets["train"][index])
        # where no clip can end at an object, one that starts there is taken
        ends_empty = not any(objects[2:])
        assert numbers == sorted(numbers, reverse=not ends_empty)
        assert objects[numbers[0]]
    assert numbers_and_objects(module.datasets["val"][0])[0] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:the data set has only one video")
@pytest.mark.parametrize("source", ["vos_folder", "sav"])
def test_workers_read_the_same_files(tmp_path, source):
    if source == "sav":
        write_sav(tmp_path, "v", "mp4")
    else:
        make_video(tmp_path)
    fields = {"annotation_folder": "."} if source == "sav" else {}
    batches = [
        list(module_for(tmp_path, source, num_workers=n, clips_per_video=4, **fields)
             .train_dataloader())
        for n in (0, 2)
    ]  # fmt: skip
    assert len(batches[0]) == len(batches[1]) == 2
    for alone, by_workers in zip(*batches, strict=True):
        assert torch.equal(alone.img_batch, by_workers.img_batch)
        assert torch.equal(alone.masks, by_workers.masks)


def coco_module(root, content, **fields) -> VideoDataModule:
    (root / "train.json").write_text(json.dumps(content))
    fields = {"image_root": str(root / "frames"), **fields}
    return module_for(
        root, "coco_video", train_annotations=str(root / "train.json"), batch_size=2, **fields
    )


def test_coco_video_keeps_one_slot_per_category(tmp_path):
    module = coco_module(tmp_path, coco_content(tmp_path, ("x", "y", "z")))
    assert module.category_layout
    assert module.num_categories == 3
    assert module.category_names == ["clip", "hook", "bag"]
    batch = next(iter(module.train_dataloader()))
    assert batch.masks.shape == (3, 2 * 3, 32, 32)
    assert batch.obj_to_frame_idx[0, :, 1].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.metadata.unique_objects_identifier[0, :3, 1].tolist() == [0, 1, 2]
    assert video_names(module, "train") == ["x", "y"]
    assert module.object_names("val", 0) == {0: "clip", 1: "hook", 2: "bag"}


def test_coco_video_merges_a_categorys_annotations(tmp_path):
    clip = coco_module(tmp_path, coco_content(tmp_path)).datasets["val"][0]
    assert numbers_and_objects(clip) == ([0, 1, 2], [0, 1, 2])
    slots = [item.segment for item in clip.frames[1].objects]
    assert slots[0][12:20, 8:24].all()
    assert slots[1][12:20, :8].all()
    assert not slots[2].any()
    assert not clip.frames[0].objects[0].segment.any()


def test_coco_video_slots_can_be_fewer_or_more(tmp_path):
    content = coco_content(tmp_path)
    more = coco_module(tmp_path, content, num_categories=5)
    assert next(iter(more.val_dataloader())).masks.shape[1] == 5
    assert more.num_categories == 5
    assert more.category_names == ["clip", "hook", "bag"]
    with pytest.warns(
        UserWarning,
        match=r"num_categories=1 leaves out \(hook\); data.num_categories=null keeps all",
    ):
        fewer = coco_module(tmp_path, content, num_categories=1)
    assert fewer.category_names == ["clip"]
    # the one slot left is empty in frame 0
    assert numbers_and_objects(fewer.datasets["val"][0])[0] == [1, 2, 3]


def test_data_sets_of_one_run_have_equally_many_slots(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(coco_content(tmp_path)))
    shared = {
        "source": "coco_video",
        "train_annotations": str(tmp_path / "train.json"),
        "image_root": str(tmp_path / "frames"),
    }
    sources = [{**shared, "name": "a", "num_categories": 5}, {**shared, "name": "b"}]
    module = VideoDataModule(DataConfig(sources=sources, num_frames=2), 32, seed=0)
    message = (
        r"data\.sources\[1\]: it has 3 category slots, the data sets before it 5: one run needs"
    )
    with pytest.raises(DataError, match=message):
        module.setup()


def test_coco_video_leaves_out_frames_whose_masks_are_unknown(tmp_path):
    content = coco_content(tmp_path, num_frames=5)
    unknown = {image["id"] for image in content["images"] if image["order_in_video"] == 1}
    for item in content["annotations"]:
        if item["image_id"] in unknown:
            item["segmentation"] = None
    clip = coco_module(tmp_path, content).datasets["val"][0]
    assert numbers_and_objects(clip)[0] == [0, 2, 3]


def test_coco_video_without_image_root_looks_beside_the_json(tmp_path):
    content = coco_content(tmp_path)
    for image in content["images"]:
        image["file_name"] = f"frames/{image['file_name']}"
    module = coco_module(tmp_path, content, image_root=None)
    assert len(module.datasets["val"][0].frames) == 3


def test_coco_video_validation_file_uses_the_training_slots(tmp_path):
    content = coco_content(tmp_path)
    val = dict(content, categories=content["categories"][::-1])
    (tmp_path / "val.json").write_text(json.dumps(val))
    module = coco_module(tmp_path, content, val_annotations=str(tmp_path / "val.json"))
    assert video_names(module, "train") == video_names(module, "val") == ["x", "y"]


def test_coco_video_validation_file_with_other_names_is_refused(tmp_path):
    content = coco_content(tmp_path)
    renamed = [{"id": 7, "name": "grasper"}, *content["categories"][1:]]
    (tmp_path / "val.json").write_text(json.dumps(dict(content, categories=renamed)))
    message = r"val\.json calls category 7 'grasper', expected the training file's name 'hook'"
    with pytest.raises(DataError, match=message):
        coco_module(tmp_path, content, val_annotations=str(tmp_path / "val.json"))


def test_coco_video_validation_file_may_leave_names_out(tmp_path):
    content = coco_content(tmp_path)
    nameless = [{"id": item["id"]} for item in content["categories"]]
    (tmp_path / "val.json").write_text(json.dumps(dict(content, categories=nameless)))
    module = coco_module(tmp_path, content, val_annotations=str(tmp_path / "val.json"))
    assert module.object_names("val", 0) == {0: "clip", 1: "hook", 2: "bag"}


@pytest.mark.filterwarnings("error:.*leaves out")
def test_categories_without_a_mask_are_cut_in_silence(tmp_path):
    content = coco_content(tmp_path)
    # the last slot, bag, has annotations without a mask only
    assert coco_module(tmp_path, content, num_categories=2).category_names == ["clip", "hook"]


@pytest.mark.filterwarnings("ignore:the data set has only one video", "ignore:.*without an annot")
def test_clips_are_found_where_few_frames_of_a_long_video_have_objects(tmp_path):
    content = coco_content(tmp_path, ("x",), num_frames=8)
    template = content["images"][0]
    content["images"] = [
        {**template, "id": t, "file_name": f"x/{t:04d}.png", "order_in_video": t}
        for t in range(3000)
    ]
    for t in range(3000):
        (tmp_path / "frames" / "x" / f"{t:04d}.png").symlink_to(f"{t % 8:03d}.png")
    mask = rle(label_map(1) > 0)
    content["annotations"] = [
        {"image_id": t, "category_id": 7, "track_id": 1, "segmentation": mask} for t in range(2)
    ]
    clips = coco_module(tmp_path, content, objects="instances", clips_per_video=8).datasets["train"]
    starts = [numbers_and_objects(clips[index])[0][0] for index in range(8)]
    # whether the official sampler's tries came upon one or not
    assert set(starts) == {0, 1}
    assert numbers_and_objects(clips[3])[0][0] == starts[3]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "x/../../secret.png"])
def test_coco_video_path_outside_image_root_is_refused(tmp_path, name):
    content = coco_content(tmp_path)
    save_frame(tmp_path / "secret.png", 0)
    content["images"][0]["file_name"] = name
    with pytest.raises(DataError, match=r"outside data\.image_root="):
        coco_module(tmp_path, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "has no list `categories`"),
        (lambda c: c["images"][0].pop("video_id"), "without a needed field .*video_id"),
        (lambda c: c["annotations"][0].update(category_id=4), "annotation of category 4"),
        (lambda c: c["annotations"][0].update(image_id=4), "annotation of image 4"),
        (
            lambda c: c["annotations"][-3].update(segmentation={"size": [9, 9], "counts": "0"}),
            "is 9 x 9 pixels, expected its frame's 32 x 24",
        ),
        (lambda c: c["images"][3].update(file_name="no.png"), r"names a frame .*no\.png that does"),
        (
            lambda c: c["images"][3].update(file_name="a" * 5000),
            r"names a frame .*aaa that does not",
        ),
    ],
    ids=["categories", "video_id", "category", "image", "size", "file", "long"],
)
def test_bad_coco_video_is_refused(tmp_path, change, message):
    content = coco_content(tmp_path)
    if "no.png" in message or "9 x 9" in message:
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 7] + [
            {"image_id": 103, "category_id": 3, "segmentation": rle(label_map(2) > 0)},
            {"image_id": 103, "category_id": 9, "segmentation": None},
            {"image_id": 103, "category_id": 9, "segmentation": None},
        ]
    change(content)
    with pytest.raises(DataError, match=message):
        coco_module(tmp_path, content)


def test_short_and_empty_videos_are_skipped_with_one_warning(tmp_path):
    for name in "ab":
        make_video(tmp_path, name)
    make_video(tmp_path, "short", objects=((1,),) * 2)
    make_video(tmp_path, "empty", objects=((),) * 6)
    (tmp_path / "train.txt").write_text("a\nshort\nempty\n")
    (tmp_path / "val.txt").write_text("b\n")
    with pytest.warns(
        UserWarning, match=r"1 with fewer annotated frames than .* \(short\) and 1 .* \(empty\)"
    ):
        module = module_for(tmp_path, train_list="train.txt", val_list="val.txt")
    assert video_names(module, "train") == ["a"]


def validation_lengths(root, lengths, **fields) -> tuple[list[str], list[int]]:
    for name, length in lengths.items():
        make_video(root, name, objects=((1,),) * length)
    (root / "train.txt").write_text("train\n")
    (root / "val.txt").write_text("\n".join(name for name in lengths if name != "train"))
    module = module_for(root, train_list="train.txt", val_list="val.txt", num_frames=2, **fields)
    batches = list(module.val_dataloader())
    assert len(next(iter(module.train_dataloader())).img_batch) == 2
    return video_names(module, "val"), [len(batch.img_batch) for batch in batches]


def test_validation_clips_have_their_own_length(tmp_path):
    lengths = {"train": 3, "a": 6, "b": 8}
    assert validation_lengths(tmp_path, lengths, val_num_frames=5) == (["a", "b"], [5])


def test_shorter_videos_are_validated_as_they_are_one_by_one(tmp_path):
    lengths = {"train": 3, "a": 3, "b": 8, "c": 1}
    with pytest.warns(
        UserWarning, match=r"validation videos: 1 with fewer annotated frames than the 2 .* \(c\)$"
    ):
        found = validation_lengths(tmp_path, lengths, val_num_frames=5, val_batch_size=1)
    assert found == (["a", "b"], [3, 5])


def test_shorter_videos_are_left_out_of_validation_in_batches(tmp_path):
    message = r"\(a\); with data\.val_batch_size=1 shorter clips can be used"
    with pytest.warns(UserWarning, match=message):
        found = validation_lengths(tmp_path, {"train": 3, "a": 3, "b": 8}, val_num_frames=5)
    assert found == (["b"], [5])


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_validation_follows_the_object_that_comes_late(tmp_path):
    make_video(tmp_path, objects=((),) * 4 + ((1,),) * 3)
    module = module_for(tmp_path, num_frames=2, val_num_frames=5, val_batch_size=1)
    assert numbers_and_objects(module.datasets["val"][0])[0] == [4, 5, 6]
    module = module_for(tmp_path, num_frames=2, frame_stride=2, val_num_frames=5, val_batch_size=1)
    assert numbers_and_objects(module.datasets["val"][0])[0] == [4, 6]


def test_drawn_validation_clips_have_their_own_length():
    module = VideoDataModule(DataConfig(num_frames=2, val_num_frames=5), 64, seed=0)
    assert len(next(iter(module.val_dataloader())).img_batch) == 5
    assert len(next(iter(module.train_dataloader())).img_batch) == 2


def test_only_short_videos_are_an_error(tmp_path):
    for name in "ab":
        make_video(tmp_path, name, objects=((1,),) * 2)
    with pytest.raises(DataError, match=r"no training video can be used.*data\.num_frames=3"):
        module_for(tmp_path)


@pytest.mark.parametrize("source", ["vos_folder", "png_folders", "sav"])
def test_missing_root_is_refused(tmp_path, source):
    with pytest.raises(DataError, match=r"data\.root=.*nowhere does not exist"):
        module_for(tmp_path / "nowhere", source)


def test_root_without_a_folder_of_frames_is_refused(tmp_path):
    message = r"data\.image_folder=JPEGImages: .*, expected a folder with one folder of frames per"
    with pytest.raises(DataError, match=message):
        module_for(tmp_path)


@pytest.mark.parametrize(
    ("made_for", "read_as"), [("vos_folder", "png_folders"), ("png_folders", "vos_folder")]
)
def test_masks_of_the_other_kind_of_folder_are_named(tmp_path, made_for, read_as):
    make_video(tmp_path, "a")
    if made_for == "png_folders":
        folder = tmp_path / "Annotations" / "a"
        masks = list(folder.iterdir())
        (folder / "00000").mkdir()
        for path in masks:
            path.rename(folder / "00000" / path.name)
    with pytest.raises(DataError, match=rf"have no masks: .*need data={made_for}$"):
        module_for(tmp_path, read_as)


def test_missing_json_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"data\.train_annotations=.*no\.json does not exist"):
        module_for(tmp_path, "coco_video", train_annotations=str(tmp_path / "no.json"))


def test_root_without_videos_is_refused(tmp_path):
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"data\.root=.* has no videos"):
        module_for(tmp_path)


def test_frames_without_any_mask_are_refused(tmp_path):
    make_video(tmp_path, "a")
    make_video(tmp_path, "b")
    for path in (tmp_path / "Annotations").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"\(a\): the frames in .*a have no masks"):
        module_for(tmp_path)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_mask_of_another_size_is_refused(tmp_path):
    make_video(tmp_path)
    save_frame(tmp_path / "JPEGImages" / "a" / "00000.jpg", 0, size=(40, HEIGHT))
    with pytest.raises(DataError, match=r"00000\.png is 32 x 24 pixels, expected its frame's 40"):
        module_for(tmp_path)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_masks_of_a_mode_without_ids_are_refused(tmp_path):
    make_video(tmp_path)
    path = tmp_path / "Annotations" / "a" / "00000.png"
    Image.new("CMYK", (WIDTH, HEIGHT)).save(path, format="TIFF")
    with pytest.raises(DataError, match=r"has mode CMYK, expected a palette, grey or coloured PNG"):
        module_for(tmp_path)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_an_object_keeps_its_colour_as_its_id(tmp_path):
    make_video(tmp_path, objects=((1, 2),) * 3)
    for path in (tmp_path / "Annotations" / "a").iterdir():
        colors = np.array([[0, 0, 0], [0, 128, 0], [255, 0, 255]], np.uint8)
        Image.fromarray(colors[np.asarray(Image.open(path))]).save(path)
    clip = module_for(tmp_path).datasets["val"][0]
    assert numbers_and_objects(clip) == ([0, 1, 2], [2, 256 + 0xFF00FF])
    assert clip.frames[1].objects[1].segment[12:20, 8:16].all()
    assert not clip.frames[1].objects[1].segment[:, :8].any()


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_frame_with_too_many_pixels_is_refused(tmp_path):
    make_video(tmp_path)
    with pytest.raises(DataError, match=r"32 x 24 pixels, more than data\.max_image_pixels=100"):
        module_for(tmp_path, max_image_pixels=100)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_broken_frame_is_named(tmp_path):
    make_video(tmp_path)
    (tmp_path / "JPEGImages" / "a" / "00002.jpg").write_bytes(b"nothing")
    dataset = module_for(tmp_path).datasets["val"]
    with pytest.raises(DataError, match=r"00002\.jpg cannot be read as an image"):
        dataset[0]


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_other_files_among_palette_masks_are_refused(tmp_path):
    make_video(tmp_path)
    (tmp_path / "Annotations" / "a" / "first.jpg").touch()
    with pytest.raises(
        DataError, match=r"not a number \(first\.jpg\), expected masks like 00000\.png"
    ):
        module_for(tmp_path)


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_frame_name_without_number_is_refused(tmp_path):
    make_video(tmp_path)
    save_frame(tmp_path / "JPEGImages" / "a" / "cover.jpg", 0)
    with pytest.raises(DataError, match=r"file whose name is not a number .*cover"):
        module_for(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nz\n", r"data\.train_list=train\.txt lists 1 video .*\(z\)"),
        ("\n", r"data\.train_list=train\.txt is empty"),
        (None, r"data\.train_list=train\.txt does not exist"),
    ],
    ids=["unknown", "empty", "missing"],
)
def test_bad_list_is_refused(tmp_path, content, message):
    for name in "ab":
        make_video(tmp_path, name)
    if content is not None:
        (tmp_path / "train.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        module_for(tmp_path, train_list="train.txt")


@pytest.mark.parametrize(
    ("listed", "found"), [("v2", "sav_000/v2"), ("sav_001/v1", "sav_001/v1"), ("v1", None)]
)
def test_a_list_may_name_a_video_of_sav_without_its_folder_where_one_is_called_so(
    tmp_path, listed, found
):
    for path in ("sav_000/v1", "sav_000/v2", "sav_001/v1"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        write_sav(tmp_path, path, "jpg")
    (tmp_path / "val.txt").write_text(f"{listed}\n")
    fields = {"annotation_folder": ".", "val_list": "val.txt"}
    if found is None:
        with pytest.raises(DataError, match=r"val_list=val\.txt lists 1 video .*\(v1\)"):
            module_for(tmp_path, "sav", **fields)
    else:
        assert video_names(module_for(tmp_path, "sav", **fields), "val") == [found]


@pytest.mark.filterwarnings("ignore:the data set has only one video")
def test_sav_labels_of_frames_that_are_counted_from_1_are_told(tmp_path):
    write_sav(tmp_path, "v", "jpg")
    for path in (tmp_path / "JPEGImages" / "v").iterdir():
        path.rename(path.with_stem(f"frame_{int(path.stem) + 1:04d}"))
    with pytest.warns(UserWarning, match=r"left out 1 mask without a frame, in 1 video \(v\)"):
        module_for(tmp_path, "sav", annotation_folder=".")


def test_list_of_all_videos_for_validation_is_refused(tmp_path):
    make_video(tmp_path)
    (tmp_path / "val.txt").write_text("a\n")
    with pytest.raises(DataError, match=r"lists every video, expected some left for training"):
        module_for(tmp_path, val_list="val.txt")


@pytest.mark.filterwarnings("ignore:the data set has only one video")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not an SA-V annotation file .JSONDecodeError"),
        ('{"fps": [6]}', "is not an SA-V annotation file"),
        (
            '{"masklet": [[{"size": [8, 8], "counts": "0"}], [{"size": [8, 8], "counts": "0"}]]}',
            "is 8 x 8 pixels, expected",
        ),
        ('{"masklet": [[null]]}', "has no annotated frame"),
    ],
    ids=["json", "masklet", "size", "null"],
)
def test_bad_sav_is_refused(tmp_path, content, message):
    write_sav(tmp_path, "v", "jpg")
    (tmp_path / "v_manual.json").write_text(content)
    with pytest.raises(DataError, match=message):
        module_for(tmp_path, "sav", annotation_folder=".", num_frames=2)


def test_sav_without_frames_is_refused(tmp_path):
    write_sav(tmp_path, "v", "mp4")
    write_sav(tmp_path, "w", "mp4")
    (tmp_path / "v.mp4").unlink()
    (tmp_path / "w.mp4").unlink()
    with pytest.raises(DataError, match=r"v_manual\.json has no frames: expected .*v\.mp4"):
        module_for(tmp_path, "sav", annotation_folder=".")


def write_videos(root, *kinds) -> None:
    """Write videos 00, 01, ... that can be used, are `short`, `empty` or have no `mask`."""
    frames = {"short": ((1,),) * 2, "empty": ((),) * 6}
    for k, kind in enumerate(kinds):
        make_video(root, f"{k:02d}", frames.get(kind, ((1,),) * 6))
        if kind == "mask":
            shutil.rmtree(root / "Annotations" / f"{k:02d}")


@pytest.mark.filterwarnings("ignore:skipped training videos")
@pytest.mark.parametrize(
    ("kinds", "train", "val"),
    [
        (["good", *["mask"] * 9, "good", *["mask"] * 9], ["00"], ["10"]),
        ([*["mask"] * 18, "good", "good"], ["18"], ["19"]),
        (["good"] * 20, [f"{k:02d}" for k in range(18)], ["18", "19"]),
        (["good", "good", "good", "good", "short"], ["00", "01", "02"], ["03"]),
        (["good", "good", "empty"], ["00"], ["01"]),
        (["good", "short", "good"], ["00"], ["02"]),
    ],
    ids=["two-of-twenty", "last-two", "all", "short", "empty", "short-between"],
)
def test_videos_that_can_be_used_are_split(tmp_path, kinds, train, val):
    write_videos(tmp_path, *kinds)
    module = module_for(tmp_path)
    assert (video_names(module, "train"), video_names(module, "val")) == (train, val)


@pytest.mark.filterwarnings("ignore:skipped training videos")
@pytest.mark.parametrize("other", ["short", "empty", "mask"])
def test_the_only_video_that_can_be_used_serves_both_splits_with_a_warning(tmp_path, other):
    write_videos(tmp_path, "good", other, other)
    with pytest.warns(UserWarning, match="only one video can be used, '00': it is used for both"):
        module = module_for(tmp_path)
    assert video_names(module, "train") == video_names(module, "val") == ["00"]


@pytest.mark.filterwarnings("ignore:skipped training videos")
def test_a_video_that_is_too_short_for_training_may_validate(tmp_path):
    write_videos(tmp_path, "good", "short")
    module = module_for(tmp_path, val_batch_size=1)
    assert (video_names(module, "train"), video_names(module, "val")) == (["00"], ["01"])


def test_each_list_chooses_among_the_videos_of_its_own_annotations(tmp_path):
    content = coco_content(tmp_path, ("x", "y", "z"))
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "train.txt").write_text("x\ny\n")
    (tmp_path / "val.txt").write_text("z\n")
    annotations = {"val_annotations": str(tmp_path / "val.json")}
    train, val = ({f"{name}_list": str(tmp_path / f"{name}.txt")} for name in ("train", "val"))
    module = coco_module(tmp_path, content, **annotations, **train, **val)
    assert (video_names(module, "train"), video_names(module, "val")) == (["x", "y"], ["z"])
    module = coco_module(tmp_path, content, **annotations, **val)
    assert (video_names(module, "train"), video_names(module, "val")) == (["x", "y", "z"], ["z"])
    (tmp_path / "train.txt").write_text("w\n")
    with pytest.raises(DataError, match=r"data\.train_list=.* does not have \(w\)"):
        coco_module(tmp_path, content, **annotations, **train)


@pytest.mark.filterwarnings("ignore:skipped training videos")
def test_a_video_without_masks_does_not_take_the_place_of_validation(tmp_path):
    for name in "abc":
        make_video(tmp_path, name)
    shutil.rmtree(tmp_path / "Annotations" / "c")
    module = module_for(tmp_path)
    assert video_names(module, "train") == ["a"]
    assert video_names(module, "val") == ["b"]
