"""Clips of one frame: how they are prompted, which settings are refused, and their metrics."""

import csv
import json
import math

import pytest
import torch
from processes import TINY, run_here
from scenes import HEIGHT, WIDTH, label_map, moving_squares, rle, save_frame
from torch.utils.data import DataLoader
from trainings import make_trainer

from core.checks import UserError
from core.config import (
    Config,
    DataConfig,
    LoraConfig,
    ModelConfig,
    SyntheticConfig,
    TrainerConfig,
    clip_length,
)
from core.data import VideoDataModule
from core.metrics.rounds import RoundMetrics, name_of_round, told_rounds
from core.model.build import build_model
from core.model.freezing import freeze
from core.model.lora import inject
from core.official import FirstPrompt, first_prompt_of, rounds_of
from core.run import check_images
from core.trainer import SAM2LightningModule

SIZE = 64
CLICK, BOX = FirstPrompt(False, 1), FirstPrompt(True, 0)


def model_of(prompt_type, **settings):
    torch.manual_seed(0)
    settings = {"num_correction_points": 2, **settings}
    return build_model(ModelConfig(image_size=SIZE, prompt_type=prompt_type, **settings))


def outputs_of(model, num_frames=1):
    with torch.no_grad():
        return model(moving_squares(num_frames, SIZE))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("prompt_type", "is_box"), [("point", False), ("mask", False), ("bbox", True)]
)
def test_one_frame_is_clicked_or_boxed_and_corrected_whatever_longer_clips_get(
    prompt_type, is_box, training
):
    # Settings that several frames need do not count.
    model = model_of(prompt_type, num_frames_to_correct=2, num_init_cond_frames=2).train(training)
    outs = outputs_of(model)
    rounds = rounds_of(outs)
    assert len(rounds) == 3
    assert first_prompt_of(rounds[0], prompt_type) == (BOX if is_box else CLICK)
    assert first_prompt_of(rounds[0], "mixed") == (BOX if is_box else CLICK)
    widths = [item["multistep_point_inputs"][-1]["point_labels"].shape[1] for item in rounds]
    assert widths == [1 + is_box, 2 + is_box, 3 + is_box]
    every_round = outs[0]["multistep_pred_masks_high_res"]
    for k, item in enumerate(rounds):
        assert torch.equal(item["pred_masks_high_res"][:, 0], every_round[:, k])
        assert item["multistep_pred_ious"][-1] is outs[0]["multistep_pred_ious"][k]
    assert torch.equal(rounds[-1]["pred_masks_high_res"], outs[0]["pred_masks_high_res"])


def test_mixed_training_boxes_some_images_and_clicks_others():
    model = model_of("mixed", num_correction_points=1)
    batch = moving_squares(1, SIZE)
    boxed = []
    for _ in range(20):
        prompts = model.prepare_prompt_inputs({}, batch)["point_inputs_per_frame"][0]
        boxed.append(prompts["point_labels"].shape[1] == 2)
    assert 4 < sum(boxed) < 16


def test_longer_clips_masks_and_merged_outputs_have_no_rounds():
    outs = outputs_of(model_of("point"), num_frames=2)
    assert rounds_of(outs) == []
    (one,) = outputs_of(model_of("point"))
    assert len(rounds_of([one])) == 3
    assert rounds_of([{**one, "mask_inputs": torch.ones(2, 1, SIZE, SIZE)}]) == []
    assert rounds_of([{**one, "multistep_point_inputs": [None]}]) == []
    assert rounds_of([{**one, "pred_masks_high_res": torch.zeros(5, 1, SIZE, SIZE)}]) == []
    assert rounds_of([{"pred_masks_high_res": torch.zeros(5, 1, SIZE, SIZE)}]) == []


def test_images_have_one_frame_whatever_is_set():
    data = DataConfig(source="sa1b", root=".", num_frames=8, val_num_frames=5)
    assert [clip_length(data, training) for training in (True, False)] == [1, 1]
    module = VideoDataModule(data, SIZE, seed=0)
    assert module.trains_on_images_alone
    assert module.validates_on_images_alone
    Config(data=data, model=ModelConfig(prompt_type="mixed", num_frames_to_correct=2))


def test_masks_as_prompts_of_images_are_refused():
    with pytest.raises(
        UserError, match=r"model\.prompt_type must be point, bbox or mixed where every training cli"
    ):
        check_images(ModelConfig(prompt_type="mask"), torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trainable_modules": ["memory"]}, "model.trainable_modules=memory reaches the memory"),
        ({"trainable_modules": ["obj_ptr_proj", "no_mem_embed"]}, "=obj_ptr_proj,no_mem_embed rea"),
        (
            {"lora": LoraConfig(rank=2, modules="memory")},
            r"model.lora.modules=memory reaches the memory alone, .* model.lora.modules=decoder_me",
        ),
        ({"trainable_modules": ["decoder_memory"]}, None),
        ({"lora": LoraConfig(rank=2, modules="decoder_memory")}, None),
        ({}, None),
    ],
    ids=str,
)
def test_what_reaches_the_memory_alone_is_refused(settings, said):
    model, config = model_of("point"), ModelConfig(prompt_type="point", **settings)
    inject(model, config.lora)
    freeze(model, config.trainable_modules)
    if said is None:
        check_images(config, model)
        return
    with pytest.raises(UserError, match=said):
        check_images(config, model)


def test_what_the_refusal_takes_for_memory_gets_no_gradient_from_images():
    model = model_of("point", trainable_modules=["memory"])
    (outs,) = model.train()(moving_squares(1, SIZE))
    total = outs["multistep_pred_masks_high_res"].sum()
    total = total + sum(map(torch.sum, outs["multistep_object_score_logits"]))
    total.backward()
    reached = {
        name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None
    }
    assert reached == {"image_encoder", "sam_prompt_encoder", "sam_mask_decoder", "no_mem_embed"}


def test_rounds_are_called_by_what_was_given():
    assert [name_of_round(k, CLICK) for k in (0, 1, 7)] == ["1click", "2clicks", "8clicks"]
    assert [name_of_round(k, BOX) for k in (0, 1, 7)] == ["box", "box+1click", "box+7clicks"]


def test_two_clicks_at_once_are_no_box():
    two = {"point_coords": torch.zeros(3, 2, 2), "point_labels": torch.ones(3, 2)}
    first = first_prompt_of({"multistep_point_inputs": [two]}, "point")
    assert [name_of_round(k, first) for k in (0, 1)] == ["2clicks", "3clicks"]
    assert told_rounds(8, first) == [1, 6, 7]


@pytest.mark.parametrize(
    ("num_rounds", "of_clicks", "behind_box"),
    [(8, [0, 2, 7], [0, 2, 7]), (2, [0, 1], [0, 1]), (5, [0, 2, 4], [0, 2, 4])],
)
def test_the_first_third_eighth_and_last_rounds_are_told(num_rounds, of_clicks, behind_box):
    assert told_rounds(num_rounds, CLICK) == of_clicks
    assert told_rounds(num_rounds, BOX) == behind_box


def rectangles(*widths):
    masks = torch.zeros(len(widths), 8, 8, dtype=torch.bool)
    for row, width in enumerate(widths):
        masks[row, :2, :width] = True
    return masks


def test_iou_after_each_round_is_the_mean_over_objects_that_are_there():
    metrics = RoundMetrics()
    gt = rectangles(4, 8, 0)
    metrics.update([rectangles(2, 8, 3), rectangles(4, 4, 0)], gt, CLICK, [0, 0, 0], [1, 2, 3])
    metrics.update([rectangles(1), rectangles(3)], rectangles(4), BOX, [1], [1])
    assert metrics.compute() == pytest.approx(
        {
            "iou@1click": (0.5 + 1.0) / 2,
            "iou@2clicks": (1.0 + 0.5) / 2,
            "iou@box": 0.25,
            "iou@box+1click": 0.75,
        }
    )
    metrics.reset()
    assert metrics.compute() == {}


def module_of(**model):
    model = {"prompt_type": "point", "num_correction_points": 2, **model}
    return SAM2LightningModule(Config(model=ModelConfig(image_size=SIZE, **model)))


def validated(module, tmp_path, batches):
    trainer = make_trainer(tmp_path)
    trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_images_alone_are_scored_after_their_last_click(tmp_path):
    torch.manual_seed(0)
    module, batch = module_of(), moving_squares(1, SIZE)
    found = validated(module, tmp_path, [batch])
    assert found["val/iou"] == pytest.approx(found["val/iou@3clicks"])
    assert {"val/iou@1click", "val/dice", "val/J&F", "val/failures/lost"} <= set(found)
    assert not {"val/iou_copy", "val/iou@8clicks", "val/identity_switches"} & set(found)
    # by hand, of the same outputs
    with torch.no_grad():
        pred = module.eval().model(batch)[0]["multistep_pred_masks_high_res"] > 0
    gt = batch.masks[0][:, None]
    ious = ((pred & gt).sum((2, 3)) / (pred | gt).sum((2, 3))).mean(0)
    assert found["val/iou@1click"] == pytest.approx(float(ious[0]), abs=1e-6)
    assert found["val/iou@3clicks"] == pytest.approx(float(ious[2]), abs=1e-6)

    assert module.findings.by_distance == []
    assert module.findings.copied == []
    assert [len(strip.track.outcomes) for strip in module.findings.strips] == [1, 1]
    with module.objects_table.open() as table:
        assert [row["object"] for row in csv.DictReader(table)] == ["1", "2"]


def test_videos_beside_images_decide_the_mean(tmp_path):
    torch.manual_seed(0)
    video = moving_squares(3, SIZE)
    video.metadata.unique_objects_identifier[..., 0] = 7
    alone = validated(module_of(prompt_type="mask"), tmp_path, [video])
    torch.manual_seed(0)
    module = module_of(prompt_type="mask")
    mixed = validated(module, tmp_path, [moving_squares(1, SIZE), video])
    assert mixed["val/iou"] == pytest.approx(alone["val/iou"])
    assert mixed["val/iou_copy"] == pytest.approx(alone["val/iou_copy"])
    assert "val/iou@1click" in mixed
    assert "val/iou@1click" not in alone
    assert {strip.video for strip in module.findings.strips} == {"video 7"}
    with module.objects_table.open() as table:
        videos = [row["video"] for row in csv.DictReader(table)]
    assert videos == ["video 0", "video 0", "video 7", "video 7"]


@pytest.mark.parametrize(
    ("prompt_type", "val_prompts", "of_last"),
    [
        ("mixed", None, "val/iou@3clicks"),
        ("bbox", ["bbox", "mask", "point"], "val/iou@box+2clicks"),
    ],
)
def test_images_are_validated_with_clicks_and_boxes_where_both_are_asked_for(
    tmp_path, prompt_type, val_prompts, of_last
):
    torch.manual_seed(0)
    model = ModelConfig(image_size=SIZE, prompt_type=prompt_type, num_correction_points=2)
    section = TrainerConfig(val_prompts=val_prompts)
    module = SAM2LightningModule(Config(model=model, trainer=section))
    found = validated(module, tmp_path, [moving_squares(1, SIZE)])
    assert found["val/iou"] == pytest.approx(found[of_last])
    names = {name for name in found if name.startswith("val/iou@")}
    clicks, box = {"val/iou@1click", "val/iou@3clicks"}, {"val/iou@box", "val/iou@box+2clicks"}
    assert names == clicks | box


def test_an_image_without_an_object_is_not_scored(tmp_path):
    batch = moving_squares(1, SIZE)
    batch.masks[:] = False
    with pytest.warns(UserWarning, match="val/iou is NaN"):
        found = validated(module_of(), tmp_path, [batch])
    assert math.isnan(found["val/iou"])


@pytest.mark.parametrize("prompt_type", ["point", "bbox"])
def test_a_training_step_logs_what_its_last_round_reached(tmp_path, prompt_type):
    synthetic = SyntheticConfig(num_train_clips=2, num_val_clips=1)
    data = DataConfig(num_frames=1, batch_size=2, val_batch_size=1, synthetic=synthetic)
    module = module_of(prompt_type=prompt_type)
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(module, VideoDataModule(data, SIZE, seed=0))
    name = {"point": "train/iou@3clicks", "bbox": "train/iou@box+2clicks"}[prompt_type]
    assert 0 <= trainer.callback_metrics[name] <= 1
    assert "train/iou" not in trainer.callback_metrics


def test_images_and_videos_train_together(tmp_path):
    synthetic = SyntheticConfig(num_train_clips=2, num_val_clips=1)
    sources = [
        {"source": "synthetic", "name": name, "num_frames": length, "batch_size": size}
        for name, length, size in (("videos", 3, 1), ("images", 1, 2))
    ]
    module = SAM2LightningModule(
        Config(
            data=DataConfig(sources=sources, synthetic=synthetic),
            model=ModelConfig(image_size=SIZE, prompt_type="mixed", num_correction_points=1),
        )
    )
    trainer = make_trainer(tmp_path)
    trainer.fit(module, VideoDataModule(module.config.data, SIZE, seed=0))
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert trainer.global_step == 3  # two videos, and both images in one batch
    assert "train/iou" in found
    assert any(name.startswith("train/iou@") for name in found)
    assert found["val/iou"] == pytest.approx(found["val/source/videos/iou"])
    assert found["val/iou@mask"] == pytest.approx(found["val/iou"])
    assert {"val/iou@bbox", "val/iou@point", "val/source/images/iou"} <= set(found)
    assert any(name.endswith(("@1click", "@box")) for name in found)


def images_as_coco(root, num_images=4):
    """Write images of two objects each, and return the settings that read them."""
    images, annotations = [], []
    for k in range(num_images):
        save_frame(root / f"{k}.png", k)
        images.append({"id": k, "file_name": f"{k}.png", "width": WIDTH, "height": HEIGHT})
        for object_id in (1, 2):
            mask = rle(label_map(object_id) > 0)
            annotation = {"id": 2 * k + object_id, "image_id": k, "category_id": object_id}
            annotations.append({**annotation, "segmentation": mask})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = root / "train.json"
    path.write_text(json.dumps(content))
    return ["data=coco_images", f"data.train_annotations={path}", f"data.image_root={root}"]


def test_the_program_trains_on_annotated_images(tmp_path, monkeypatch):
    ended = run_here(
        monkeypatch, tmp_path, *TINY, *images_as_coco(tmp_path), "model.prompt_type=bbox",
        "model.num_correction_points=1", "data.val_fraction=0.5", "data.num_workers=0",
        "logger=csv", "visualizations.enabled=true", "visualizations.strict=true",
    )  # fmt: skip
    assert ended == ""
    with (tmp_path / "run" / "metrics" / "val_step1.csv").open() as table:
        names = [(row["video"], row["name"]) for row in csv.DictReader(table)]
    assert names == [(f"{k}.png", name) for k in (2, 3) for name in ("cat", "dog")]
    header = (tmp_path / "run" / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val/iou", "val/iou@box", "val/iou@box+1click"} <= set(header)
    assert (tmp_path / "run" / "run.html").is_file()


def test_the_program_refuses_what_images_cannot_be_trained_with(tmp_path, monkeypatch):
    ended = run_here(monkeypatch, tmp_path, *TINY, *images_as_coco(tmp_path))
    assert ended.startswith("error: model.prompt_type must be point, bbox or mixed where every")
    memory = ["data.num_frames=1", "model.prompt_type=point", "model.trainable_modules=memory"]
    ended = run_here(monkeypatch, tmp_path, *TINY, *memory)
    assert ended.startswith("error: model.trainable_modules=memory reaches the memory alone")
