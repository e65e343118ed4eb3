"""How many clips a video gives, and where those of validation start."""

import pytest
from scenes import coco_content, make_video
from test_data_formats import NO_AUGMENTATION, coco_module, numbers_and_objects
from test_data_formats import module_for as module_of_one_clip

from core.config import Config, DataConfig
from core.data import VideoDataModule
from core.data.check import check_split
from core.metrics.video import VideoMetrics
from core.run import _data

pytestmark = pytest.mark.filterwarnings("ignore:the data set has only one video")


def module_for(root, **fields) -> VideoDataModule:
    """Return a module with the default numbers of clips."""
    defaults = {"clips_per_video": None, "val_clips_per_video": None}
    return module_of_one_clip(root, **{**defaults, **fields})


def first_frames(module, stage="val") -> list[int]:
    dataset = module.datasets[stage]
    return [numbers_and_objects(dataset[i])[0][0] for i in range(len(dataset))]


@pytest.mark.parametrize(
    ("num_frames", "fields", "clips"),
    [
        (15, {}, 5),
        (14, {}, 4),
        (3, {}, 1),
        (15, {"frame_stride": 3}, 2),  # a clip reaches over 7 frames
        (15, {"clips_per_video": 7}, 7),
    ],
    ids=["whole", "rest", "short", "stride", "set"],
)
def test_training_takes_as_many_clips_as_a_video_holds(tmp_path, num_frames, fields, clips):
    make_video(tmp_path, objects=((1,),) * num_frames)
    assert len(module_for(tmp_path, **fields).datasets["train"]) == clips


def test_training_counts_every_video_by_itself(tmp_path):
    for name, num_frames in (("a", 9), ("b", 3), ("c", 6), ("d", 3)):
        make_video(tmp_path, name, objects=((1,),) * num_frames)
    dataset = module_for(tmp_path, val_fraction=0.25).datasets["train"]
    ids = [dataset[0, i].video_id for i in range(len(dataset))]
    assert ids == [0, 1, 2, 0, 2, 0]
    assert dataset.amount == "6 training clips of 3 videos"


@pytest.mark.parametrize(
    ("num_frames", "fields", "firsts"),
    [
        (9, {}, [0, 3, 6]),
        (11, {}, [0, 4, 8]),
        (3, {}, [0]),
        (9, {"val_clips_per_video": 1}, [0]),
        (9, {"val_clips_per_video": 2}, [0, 6]),
        (4, {"val_clips_per_video": 5}, [0, 1]),  # more are not in it
        (14, {"frame_stride": 3}, [0, 7]),
        (2, {"val_batch_size": 1, "num_frames": 2, "val_num_frames": 5}, [0]),
    ],
    ids=["whole", "rest", "one", "first", "set", "many", "stride", "shorter"],
)
def test_validation_spreads_its_clips_over_the_video(tmp_path, num_frames, fields, firsts):
    make_video(tmp_path, objects=((1,),) * num_frames)
    assert first_frames(module_for(tmp_path, **fields)) == firsts


def test_validation_takes_at_most_eight_clips_and_says_so(tmp_path):
    make_video(tmp_path, objects=((1,),) * 60)
    module = module_for(tmp_path)
    assert first_frames(module) == [0, 8, 16, 24, 32, 40, 48, 57]
    said = _data(Config(data=module.data), module, num_ranks=1)
    assert "8 validation clips of 1 video (at most 8 of each: data.val_clips_per_video)" in said
    assert len(module_for(tmp_path, val_clips_per_video=20).datasets["val"]) == 20


def test_validation_clips_start_with_an_object_and_leave_out_empty_parts(tmp_path):
    there = {1, 2, 5, 12}  # of 18 frames; clips of 3 are to start at 1, 4, 8, 11 and 15
    make_video(tmp_path, objects=[(1,) if t in there else () for t in range(18)])
    assert first_frames(module_for(tmp_path)) == [1, 5, 12]


def test_clips_of_one_video_have_ids_names_and_rows_of_their_own(tmp_path):
    for name, num_frames in (("a", 3), ("b", 9), ("c", 3)):
        make_video(tmp_path, name, objects=((1,),) * num_frames)
    module = module_for(tmp_path, val_fraction=0.6)
    batches, metrics = list(module.val_dataloader()), VideoMetrics(boundary=False)
    ids = [v for b in batches for v in b.metadata.unique_objects_identifier[0, :, 0].tolist()]
    assert ids == [0, 1, 2, 3]
    names = [module.clip_name("val", i) for i in ids]
    assert names == ["b (clip 1 of 3)", "c", "b (clip 2 of 3)", "b (clip 3 of 3)"]
    for batch in batches:
        identifiers = batch.metadata.unique_objects_identifier[0]
        prompted = batch.masks.new_tensor([True, False, False])
        metrics.update(batch.masks, batch.masks, prompted, identifiers[:, 0], identifiers[:, 1])
    assert list(metrics.rows) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    module.datasets["val"].reader.object_names = lambda i: {1: f"object of {i}"}
    assert [module.object_names("val", i)[1][-1] for i in ids] == ["1", "2", "1", "1"]


def test_a_frame_that_lost_its_object_since_hands_its_clip_to_the_next(tmp_path):
    make_video(tmp_path, objects=((1,),) * 6)
    module = module_for(tmp_path, val_clips_per_video=1)
    make_video(tmp_path, objects=((), (), *((1,),) * 4))  # rewritten in place
    assert first_frames(module) == [2]


def test_the_check_tells_that_every_slot_is_kept(tmp_path):
    module = coco_module(tmp_path, coco_content(tmp_path))
    text = str(check_split(module.datasets["val"], "val"))
    assert "2 categories, summed over videos" in text
    assert "a clip keeps a slot for every category all the same" in text
    assert "a clip contains only" not in text


def test_drawn_clips_stay_as_many_as_they_were():
    module = VideoDataModule(DataConfig(augmentation=NO_AUGMENTATION), 64, seed=0)
    module.setup()
    assert [module.datasets[stage].amount for stage in ("train", "val")] == [
        f"{module.data.synthetic.num_train_clips} training clips",
        f"{module.data.synthetic.num_val_clips} validation clips",
    ]
