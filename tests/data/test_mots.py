"""MOTS in both layouts, written from its description: a value is 1000 x class + instance."""

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import HEIGHT, WIDTH, label_map, save_frame
from trainings import make_trainer

from core.config import Config, DataConfig, LossConfig, ModelConfig
from core.data import DataError, VideoDataModule
from core.data.readers.reader import SOURCES
from core.official import without_ignored
from core.trainer import SAM2LightningModule


def save_values(path, **columns: int) -> None:
    """A mask whose k-th square has a value: ``_1=2003``."""
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    for column, value in columns.items():
        values[label_map(int(column[1:])) > 0] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_videos(root, images="images", names=("0002", "0011")) -> None:
    """A car and a pedestrian, and a region to ignore on the last frame."""
    for name in names:
        for t in range(12):
            save_frame(root / images / name / f"{t:06d}.png", t)
            more = {"_3": 10_000} if t == 11 else {}
            save_values(root / "instances" / name / f"{t:06d}.png", _1=1005, _2=2005, **more)


def settings(root, **fields):
    folders = {"image_folder": "images", "annotation_folder": "instances"}
    return DataConfig(source="mots", root=str(root), **folders, **fields)


def open_mots(root):
    return SOURCES["mots"].open(settings(root))[0]


@pytest.mark.parametrize("images", ["images", "image_02", "training/image_02"])
def test_a_value_is_an_object_and_class_10_is_none(tmp_path, images):
    save_videos(tmp_path, images)
    reader = open_mots(tmp_path)
    assert reader.names == ["0002", "0011"]
    frames = reader.video(1).frames
    assert [frame.frame_idx for frame in frames] == list(range(12))
    names = reader.object_names(1)
    assert (names[1005], names[2005]) == ("car", "pedestrian")
    for frame in (frames[0], frames[11]):
        masks = reader.masks(1, frame)
        assert sorted(masks) == [1005, 2005]
        np.testing.assert_array_equal(masks[2005], label_map(2) > 0)


def val_batch(root):
    data = settings(root, num_frames=12, num_workers=0, val_batch_size=1)
    return next(iter(VideoDataModule(data, 64, seed=0).val_dataloader()))


def test_regions_to_ignore_come_beside_the_objects(tmp_path):
    save_videos(tmp_path)
    batch = val_batch(tmp_path)
    ids = batch.metadata.unique_objects_identifier
    assert ids[0, :, 1].tolist() == [1005, 2005]
    assert batch.masks.shape[:2] == batch.metadata.frame_orig_size.shape[:2] == (12, 2)
    ignored = batch.metadata.ignored
    assert ignored.shape == (12, 1, 64, 64)
    assert not ignored[:11].any()
    region = Image.fromarray(label_map(3) > 0).resize((64, 64), Image.Resampling.NEAREST)
    assert (ignored[11, 0].numpy() != np.asarray(region)).mean() < 0.02
    assert ignored.any()
    assert not (ignored & batch.masks).any()


def test_the_loss_knows_nothing_of_regions_to_ignore(tmp_path):
    save_videos(tmp_path)
    batch = val_batch(tmp_path)
    outs = [
        {
            "multistep_pred_multimasks_high_res": [torch.randn(2, 3, 64, 64, requires_grad=True)],
            "multistep_pred_ious": [torch.rand(2, 3)],
            "multistep_object_score_logits": [torch.randn(2, 1)],
        }
        for _ in range(12)
    ]
    loss = SAM2LightningModule(Config(loss=LossConfig(supervise_all_iou=True))).loss
    before = loss(*without_ignored(outs, batch))
    before["core_loss"].backward()
    logits = outs[11]["multistep_pred_multimasks_high_res"][0]
    region = batch.metadata.ignored[11, 0].expand_as(logits)
    assert (logits.grad[region] == 0).all()
    assert (logits.grad[~region] != 0).any()
    with torch.no_grad():
        logits[region] *= -7.0
    after = loss(*without_ignored(outs, batch))
    assert all(torch.equal(before[name], after[name]) for name in before)
    # as good as nothing is added: less than a prediction that is sure of what is there
    sure = without_ignored(outs, batch)[0][11]["multistep_pred_multimasks_high_res"][0]
    assert torch.sigmoid(sure[region]).max() < 1e-8
    assert outs[11]["multistep_pred_multimasks_high_res"][0] is logits


def test_a_training_on_mots_takes_steps(tmp_path):
    save_videos(tmp_path / "set")
    config = Config(
        model=ModelConfig(image_size=64),
        data=settings(tmp_path / "set", num_frames=4, num_workers=0),
    )
    config.data.augmentation.mosaic = 0.5
    module = SAM2LightningModule(config)
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(module, VideoDataModule(config.data, 64, seed=0))
    assert trainer.global_step == 2
    assert torch.isfinite(trainer.callback_metrics["val/loss"])


def save_task(folder, labels="cat\ndog\n", stems=("frame_2", "frame_10", "frame_9")) -> None:
    for t, stem in enumerate(stems):
        save_frame(folder / "images" / f"{stem}.PNG", t)
    for stem in stems[:2]:
        save_values(folder / "instances" / f"{stem}.png", _1=1001, _2=2001)
    (folder / "instances" / "labels.txt").write_text(labels)


def test_subsets_of_cvat_are_videos_in_the_order_of_their_names(tmp_path):
    save_task(tmp_path / "default")
    save_task(tmp_path / "val")
    reader = open_mots(tmp_path)
    assert reader.names == ["default", "val"]
    frames = reader.video(0).frames
    # frame_9, which has no mask, lies between
    assert [(f.frame_idx, f.image_path.split("_")[-1]) for f in frames] == [
        (0, "2.PNG"), (2, "10.PNG")
    ]  # fmt: skip
    assert [f.frame_idx for f in reader.all_frames(0)] == [0, 1, 2]
    assert reader.num_unmatched(0) == (1, 0)
    names = reader.object_names(0)
    assert (names[1001], names[2001]) == ("cat", "dog")
    assert sorted(reader.masks(0, frames[0])) == [1001, 2001]


def test_one_subset_of_cvat_can_be_the_root(tmp_path):
    save_task(tmp_path / "task")
    assert open_mots(tmp_path / "task").names == ["task"]


def test_class_10_is_what_the_labels_say(tmp_path):
    save_task(tmp_path, "\n".join("abcdefghij"))
    save_values(tmp_path / "instances" / "frame_2.png", _1=10_003)
    reader = open_mots(tmp_path)
    assert list(reader.masks(0, reader.video(0).frames[0])) == [10_003]
    assert reader.object_names(0)[10_003] == "j"


def spoil_value(root):
    save_values(root / "instances" / "frame_2.png", _1=3)


def spoil_class(root):
    save_values(root / "instances" / "frame_2.png", _1=3001)


def spoil_size(root):
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(root / "instances" / "frame_2.png")


def spoil_pixels(root):
    path = root / "instances" / "frame_2.png"
    path.write_bytes(path.read_bytes()[:60])


def spoil_labels(root):
    (root / "instances" / "labels.txt").write_bytes(b"\xff\xfe\xff")


def spoil_stems(root):
    save_frame(root / "images" / "frame_2.jpg", 0)


def spoil_images(root):
    (root / "images").rename(root / "pictures")


def spoil_names(root):
    for path in (root / "instances").glob("*.png"):
        path.rename(path.with_stem(f"{path.stem}_mask"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_value, r"frame_2\.png has value 3, expected 1000 x .* need data=vos_folder$"),
        (spoil_class, r"frame_2\.png has class 3, but .*labels\.txt names 2"),
        (spoil_size, r"frame_2\.png is 9 x 9 pixels, expected its frame's 32 x 24"),
        (spoil_pixels, r"frame_2\.png cannot be read"),
        (spoil_labels, r"labels\.txt cannot be read"),
        (spoil_stems, r"two files of frame frame_2 \(frame_2\.PNG and frame_2\.jpg\)"),
        (spoil_images, r"data\.image_folder=images: .*images does not exist"),
        (spoil_names, r"no mask in .*instances has the name of a frame in .*images"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_mots_is_refused(tmp_path, spoil, message):
    save_task(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        masks_of_first(tmp_path)


def masks_of_first(root) -> dict:
    reader = open_mots(root)
    return reader.masks(0, reader.video(0).frames[0])


def test_a_root_without_instances_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"data\.annotation_folder=instances: .* does not exist"):
        open_mots(tmp_path)
    (tmp_path / "instances").mkdir()
    with pytest.raises(DataError, match=r"has no videos: expected PNGs, or folders of them"):
        open_mots(tmp_path)
