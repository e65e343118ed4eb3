"""Validation under several prompt types: what is measured, when, and that nothing else changes."""

import lightning.pytorch as pl
import pytest
from books import read_runs
from fakes import RememberingLogger, visualizations
from trainings import KeepLosses, Training, assert_same_training, make_trainer, random_states

from core.config import (
    Config,
    DataConfig,
    ModelConfig,
    SyntheticConfig,
    TrainerConfig,
    VisualizationsConfig,
)
from core.data import VideoDataModule
from core.run import _validation
from core.trainer import SAM2LightningModule
from core.val_prompts import ValidationPrompts, val_prompts_every, val_prompts_of
from core.visualization import publisher


def config_of(prompt_type="mixed", val_prompts=None, every=None, section=None, num_clips=3):
    return Config(
        model=ModelConfig(image_size=64, prompt_type=prompt_type, num_correction_points=1),
        data=DataConfig(
            num_frames=2,
            batch_size=1,
            val_batch_size=1,
            num_workers=0,
            synthetic=SyntheticConfig(num_train_clips=num_clips, num_val_clips=1, max_objects=2),
        ),
        trainer=TrainerConfig(val_prompts=val_prompts, val_prompts_every=every),
        visualizations=section or VisualizationsConfig(),
    )


@pytest.mark.parametrize(
    ("prompt_type", "val_prompts", "every", "types", "n"),
    [
        ("mask", None, None, ["mask"], 1),
        ("bbox", None, None, ["bbox"], 1),
        ("mixed", None, None, ["mask", "bbox", "point"], 4),
        ("mixed", None, 2, ["mask", "bbox", "point"], 2),
        ("mixed", ["point"], None, ["point"], 1),
        ("mask", ["bbox", "mask"], None, ["bbox", "mask"], 1),
        ("mask", ["bbox", "mask"], 3, ["bbox", "mask"], 3),
    ],
)
def test_types_and_their_validations_follow_from_the_settings(
    prompt_type, val_prompts, every, types, n
):
    config = config_of(prompt_type, val_prompts, every)
    assert (val_prompts_of(config), val_prompts_every(config)) == (types, n)


@pytest.mark.parametrize("value", [[], ["mixed"], ["mask", "mask"], ["box"]])
def test_other_prompts_than_there_are_to_validate_under_are_refused(value):
    with pytest.raises(ValueError, match=r"trainer.val_prompts must be null or a list of some of"):
        TrainerConfig(val_prompts=value)


def test_further_types_are_due_at_every_nth_validation_and_the_last():
    prompts = ValidationPrompts(config_of(every=2))
    due = []
    for number in range(6):
        prompts.num_validations = number
        prompts.begin({}, is_last=number == 5)
        due.append(prompts.further)
    others = ["bbox", "point"]
    assert due == [others, [], others, [], others, others]


def test_the_start_says_what_it_costs():
    ((name, said),) = _validation(config_of(), on_images=False)
    assert name == "validation"
    assert " ".join(said.split()) == (
        "under mask prompts, which val/iou is of; every 4 validations and at the last under bbox "
        "and point prompts too: one more validation per further type"
    )
    assert _validation(config_of("point"), on_images=False) == []


def test_the_start_says_that_images_are_prompted_with_clicks_and_boxes():
    ((_, said),) = _validation(config_of(), on_images=True)
    assert said.startswith("under point prompts, which val/iou is of;")
    assert "under bbox prompts too" in said


def train(tmp_path, logger, **options):
    config = config_of(**options)
    pl.seed_everything(0, workers=True, verbose=False)
    module, losses = SAM2LightningModule(config), KeepLosses()
    trainer = make_trainer(
        tmp_path, logger, [losses], val_check_interval=1, use_distributed_sampler=False
    )
    trainer.fit(module, VideoDataModule(config.data, 64, seed=0))
    return Training(module, trainer, losses.losses, random_states(module.model.rng))


def ious_of(logger):
    """What each validation logged of IoU, by steps taken; Lightning counts them from zero."""
    return {
        step + 1: {
            name.removeprefix("val/"): value
            for name, value in metrics.items()
            if name == "val/iou" or name.startswith("val/iou@")
        }
        for step, metrics in logger.metrics
        if "val/iou" in metrics
    }


@pytest.mark.slow
def test_training_and_val_iou_are_the_same_with_further_types(tmp_path):
    """Bit for bit, with pictures of them too; and a further type has the IoU that it has alone."""
    all_types, masks, boxes = (RememberingLogger() for _ in range(3))
    section = visualizations(run_dir=str(tmp_path / "book"), every_n_steps=100)
    types = ["mask", "bbox", "point"]
    one = train(tmp_path, all_types, val_prompts=types, every=2, section=section)
    other = train(tmp_path, masks, val_prompts=["mask"])
    assert_same_training(one, other)
    of_all, of_masks = ious_of(all_types), ious_of(masks)
    assert sorted(of_masks) == sorted(of_all) == [1, 2, 3]
    for step, values in of_all.items():
        further = {"iou@mask", "iou@bbox", "iou@point"} if step != 2 else set()
        assert set(values) - {"iou"} == further
        assert {"iou": values["iou"]} == of_masks[step]
        assert values.get("iou@mask", values["iou"]) == values["iou"]
    train(tmp_path, boxes, val_prompts=["bbox"])
    of_boxes = ious_of(boxes)
    assert [of_boxes[step]["iou"] for step in (1, 3)] == [of_all[n]["iou@bbox"] for n in (1, 3)]

    assert all_types.moments_of("val/prompts") == [("val/prompts", 1), ("val/prompts", 3)]
    (run,) = read_runs(tmp_path / "book")
    assert run["curves"]["val/iou@bbox"]["steps"] == [1, 3]
    assert run["curves"]["val/iou"]["steps"] == [1, 2, 3]
    kept = {clip["name"]: clip for clip in run["clips"] if clip["kind"] == "prompts"}
    pinned = next(clip for clip in run["clips"] if clip["kind"] == "pinned")
    assert set(kept) == {f"{pinned['name']} · {kind} prompts" for kind in ("bbox", "point")}
    assert {row["video"] for row in run["objects"]}.isdisjoint(kept)


def test_a_picture_that_fails_costs_it_alone_and_a_resumed_run_counts_on(
    tmp_path, monkeypatch, caplog
):
    def fail(*args):
        raise RuntimeError("no ink")

    monkeypatch.setattr(publisher, "render_by_prompts", fail)
    logger = RememberingLogger()
    section = visualizations(run_book=False, every_n_steps=100)
    module = train(tmp_path, logger, section=section, num_clips=1).module
    assert logger.moments_of("val/prompts") == []
    assert len(logger.moments_of("val/composites")) == 1
    assert "drawing a clip under each prompt type" in caplog.text

    checkpoint = {"global_step": 1}
    module.on_save_checkpoint(checkpoint)
    resumed = SAM2LightningModule(config_of())
    resumed.on_load_checkpoint(checkpoint)
    assert resumed.val_prompts.num_validations == 1
