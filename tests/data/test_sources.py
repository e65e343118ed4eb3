"""Several data sets in one run: settings, whose turn it is, numbers, names, checks."""

import csv
import dataclasses
import json
import math
import random
import re
from collections import Counter

import pytest
import yaml
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from processes import TrainProcess
from videos import Disc, draw, write_vos

from core.checks import UserError
from core.config import (
    CONFIG_DIR,
    DATA_SOURCES,
    Config,
    DataConfig,
    ModelConfig,
    SourceConfig,
    config_of,
    in_source,
    to_config,
)
from core.data import DataError, VideoDataModule
from core.data.check import check_data
from core.data.sources import InTurn, MixedOrder, Part, share_out
from core.evaluate.settings import EvaluateConfig, combine
from core.evaluate.videos import find_videos
from core.overrides import compose_command_line
from core.run import _data, store_settings
from core.words import counted

MINE = "{source: vos_folder, root: /a, name: mine}"


def sources_of(*overrides):
    return to_config(compose_command_line(list(overrides))[0]).data.sources


def test_what_a_data_set_leaves_out_comes_from_its_file_and_from_data():
    mine, sav = sources_of(
        "data=sources",
        "data.num_frames=6",
        "data.val_list=mine.txt",
        "data.augmentation.degrees=5",
        f"data.sources=[{MINE}, {{source: sav, root: /b, num_frames: 8, weight: null}}]",
    )
    assert (mine.name, sav.name) == ("mine", "sav")
    assert (mine.num_frames, sav.num_frames) == (6, 8)
    assert (mine.annotation_folder, sav.annotation_folder) == ("Annotations", ".")
    assert (sav.augmentation.degrees, sav.val_list, sav.weight) == (5, None, None)


def test_one_setting_of_one_data_set_can_be_named():
    sources = sources_of(
        f"data.sources=[{MINE}, {{source: sav, root: /b}}]",
        "data.sources[1].root=/my set/(1)",
        "data.sources.0.augmentation.degrees=7",
    )
    assert (sources[0].augmentation.degrees, sources[1].root) == (7, "/my set/(1)")


def test_stored_settings_are_read_as_they_were():
    config = to_config(compose_command_line([f"data.sources=[{MINE}]", "seed=3"])[0])
    assert config_of(dataclasses.asdict(config)) == config
    written = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
    assert to_config(OmegaConf.merge(OmegaConf.structured(Config), written)) == config


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{source: sav}", "data.sources[1].root must be the data set's folder for data=sav, got N"),
        ("{source: sav, rot: /b}", "unknown setting data.sources[1].rot; did you mean root?"),
        ("{source: sov, root: /b}", "data.sources[1].source must be one of synthetic, vos_folder"),
        ("{root: /b}", "data.sources[1].source must be one of synthetic, vos_folder"),
        ("{source: sav, root: /b, name: mine}", "data.sources[1].name must be another than data.s"),
        ("{source: sav, root: /b, name: a/b}", "data.sources[1].name must be null or 1 to 64 lett"),
        ("{source: sav, root: /b, weight: -1}", "data.sources[1].weight must be null or at least"),
        ("{source: sav, root: /b, weight: 2}", "data.sources[0].weight must be a number as data.s"),
        ("{source: sav, root: /b, num_frames: 0}", "data.sources[1].num_frames must be at least 1"),
        ("{source: sav, root: /b, num_frames: x}", "data.sources[1].num_frames: Value 'x' of type"),
        ("{source: sav, root: /b, num_workers: 9}", "data.sources[1].num_workers must be left out"),
        ("{source: sav, root: /b, sources: [1]}", "data.sources[1].sources must be null in one of"),
        (
            "{source: sav, root: /b, augmentation: {degrees: 900}}",
            "[1].augmentation.degrees must b",
        ),
        ("{source: sav, root: /b, augmentation: {degres: 9}}", "data.sources[1].augmentation.degr"),
        ("{source: coco_images}", "data.sources[1].train_annotations must be the path of a JSON"),
        ("7", "data.sources[1] must be the settings of one data set, as in {source: vos_folder, "),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(second, message):
    with pytest.raises(UserError) as caught:
        DataConfig(sources=[yaml.safe_load(MINE), yaml.safe_load(second)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=sources"], r"^data\.sources must be null or a list of data sets, got \[\]"),
        (["data.sources.0.root=/b"], r"^data\.sources\.0\.root='/b': data\.sources has no such"),
        (["data.sources[1].rot=/b"], r"^unknown setting data\.sources\.1\.rot; did you mean root"),
        (["experiment=two_sets"], r"^data\.sources\[0\]\.root and data\.sources\[1\]\.root must"),
    ],
)
def test_what_is_missing_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        sources_of(*overrides)


def test_data_sets_are_checked_together_and_with_the_model():
    with pytest.raises(
        UserError, match=r"^data\.sources\[0\]\.weight must be above 0 for one data"
    ):
        DataConfig(sources=[{"source": "synthetic", "weight": 0}])
    data = DataConfig(sources=[{"source": "synthetic", "num_frames": 2}])
    message = (
        r"^model\.num_init_cond_frames must be at most 1 with data\.sources\[0\]\.num_frames=2"
    )
    with pytest.raises(UserError, match=message):
        Config(data=data, model=ModelConfig(num_init_cond_frames=2, num_frames_to_correct=2))


def test_whatever_stands_in_a_data_set_is_taken_or_refused_in_a_sentence_that_names_it():
    pick, refused = random.Random(0), []
    keys = [*(item.name for item in dataclasses.fields(SourceConfig)), "rot", "", 5, None]
    values = [
        None, 0, 1, -1, 2.5, math.nan, math.inf, True, "", "x", "auto", "sav", "a/b", "..", [], [1],
        {}, {"degrees": 5}, {"degrees": None}, {"q": 1}, "???", "${data.root}", 10**30, b"x", (1,),
    ]  # fmt: skip
    for _ in range(40):
        entry = {"source": pick.choice(DATA_SOURCES), "root": "/d", "train_annotations": "x.json"}
        entry |= {pick.choice(keys): pick.choice(values) for _ in range(pick.randint(0, 2))}
        second = entry if pick.random() < 0.9 else pick.choice(values)
        try:
            DataConfig(sources=[second])
        except UserError as error:
            refused.append(str(error))
    assert 5 < len(refused) < 35
    named = re.compile(r"(unknown setting )?data\.sources\[0\].*")
    assert [said for said in refused if not named.fullmatch(said)] == []


def test_a_message_names_the_data_set_and_no_folder():
    said = "data.root=/data.root/x/data.val_list: data.val_list, not my_data.root"
    assert in_source(said, 2) == (
        "data.sources[2].root=/data.root/x/data.val_list: data.sources[2].val_list, "
        "not my_data.root"
    )


def test_shares_are_whole_and_add_up():
    assert share_out(10, [1, 3]) == [3, 7]
    assert share_out(8, [1, 3]) == [2, 6]
    assert share_out(7, [1, 1, 1]) == [3, 2, 2]
    assert share_out(10, [1000, 1]) == [9, 1]
    assert share_out(5, [2, 0, 3]) == [2, 0, 3]


def as_rank(monkeypatch, rank, num_ranks):
    for module in ("loader", "sources"):
        monkeypatch.setattr(f"core.data.{module}.world", lambda: (rank, num_ranks))


PARTS = [Part(0, 5, 2), Part(5, 3, 1), Part(8, 20, 4)]


def part_of(index):
    return sum(index >= part.first for part in PARTS) - 1


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("weights", [(None, None, None), (1, 1, 1)])
def test_ranks_draw_the_same_data_set_and_see_every_clip_before_any_comes_again(
    weights, num_ranks, monkeypatch
):
    parts = [
        dataclasses.replace(part, weight=weight)
        for part, weight in zip(PARTS, weights, strict=True)
    ]
    order, seen, turns = MixedOrder(parts, seed=1), Counter(), []
    whole = {1: [3, 3, 5], 2: [2, 2, 3]}[num_ranks]
    counts = whole if weights[0] is None else {1: [4, 4, 3], 2: [3, 2, 2]}[num_ranks]
    for epoch in range(6):
        ranks = []
        for rank in range(num_ranks):
            as_rank(monkeypatch, rank, num_ranks)
            assert order.count(num_ranks) == sum(whole)
            ranks.append(order.batches(epoch))
            assert ranks[-1] == order.batches(epoch)
        turns.append([part_of(batch[0][1]) for batch in ranks[0]])
        assert [turns[-1].count(i) for i in range(3)] == counts
        for i, batches in zip(turns[-1], zip(*ranks, strict=True), strict=True):
            for batch in batches:
                assert {part_of(index) for _, index in batch} == {i}
                assert len(batch) == parts[i].batch_size
                seen.update(batch)
    assert max(seen.values()) == 1  # no (pass, index) twice, on any rank, in any epoch
    for part in parts:
        own = [key for key in seen if part.first <= key[1] < part.first + part.num_clips]
        last = max(number for number, _ in own)
        assert len([key for key in own if key[0] < last]) == last * part.num_clips
    assert len({tuple(turn) for turn in turns}) > 1
    assert MixedOrder(parts, seed=2).batches(0) != MixedOrder(parts, seed=1).batches(0)


def test_weights_are_shares_of_the_batches():
    order = MixedOrder([Part(0, 6, 2, 3.0), Part(6, 60, 2, 1.0)], seed=0)
    assert order.counts(1) == [25, 8]
    assert order.counts(2) == [13, 4]
    passes = Counter(number for batch in order.batches(0) for number, index in batch if index < 6)
    assert passes == {**dict.fromkeys(range(8), 6), 8: 2}


def test_data_sets_take_turns_in_validation_and_ranks_get_equally_many_batches(monkeypatch):
    order = InTurn([Part(0, 3, 2), Part(3, 4, 1)])
    assert [[index for _, index in batch] for batch in order.batches(7)] == [
        [0, 1], [3], [2], [4], [5], [6],
    ]  # fmt: skip
    ranks = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        ranks.append([[index for _, index in batch] for batch in order.batches(0)])
        assert len(ranks[-1]) == order.count(2)
    assert ranks == [[[0, 2], [3], [5]], [[1, 0], [4], [6]]]


@pytest.fixture(scope="module")
def two_folders(tmp_path_factory):
    """Two folders with videos of the same names, whose objects have the same ids."""
    root = tmp_path_factory.mktemp("sets")
    for name, seed, size in (("a", 1, (40, 60)), ("b", 2, (50, 50))):
        for video in ("one", "two", "zero"):
            discs = [Disc(1, (20, 20), 9), Disc(2, (35, 15), 6)]
            write_vos(root / name, video, draw(5, size, discs, seed))
    return root


def data_of(root, **shared):
    sources = [
        {"source": "vos_folder", "root": str(root / "a"), "name": "first", "num_frames": 3},
        {"source": "vos_folder", "root": str(root / "b"), "name": "second"},
    ]
    fixed = {"num_frames": 2, "batch_size": 1, "clips_per_video": 1, "val_clips_per_video": 1}
    return DataConfig(**{"sources": sources, **fixed, **shared})


def read(loader, epoch=0):
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


def test_clips_have_numbers_and_names_of_their_own_though_videos_and_ids_coincide(two_folders):
    module = VideoDataModule(data_of(two_folders, val_fraction=0.67), 64, seed=0)
    batches = read(module.val_dataloader())
    keys, names = [], []
    for batch in batches:
        objects = batch.metadata.unique_objects_identifier[0, :, :2].tolist()
        assert len(batch.masks) == {"first": 3, "second": 2}[module.source_of("val", objects[0][0])]
        keys += [tuple(key) for key in objects]
        names += [module.clip_name("val", video) for video, _ in objects[::2]]
    assert keys == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert names == ["first/two", "first/zero", "second/two", "second/zero"]
    heights = [batch.metadata.frame_orig_size[0, 0].tolist() for batch in batches]
    assert heights == [[40, 60], [50, 50]]
    assert module.clip_name("train", 1) == "second/one"
    assert module.object_names("val", 3) is None


def test_clips_of_one_video_have_numbers_and_names_of_their_own(two_folders):
    data = data_of(two_folders, val_clips_per_video=2, val_batch_size=1)
    module = VideoDataModule(data, 64, seed=0)
    firsts = [
        batch.metadata.unique_objects_identifier[0, 0].tolist()
        for batch in read(module.val_dataloader())
    ]
    assert [number for number, _, _ in firsts] == [0, 2, 1, 3]
    assert [module.clip_name("val", number) for number in range(4)] == [
        f"{name}/zero (clip {k} of 2)" for name in ("first", "second") for k in (1, 2)
    ]
    assert len({(module.source_of("val", number), frame) for number, _, frame in firsts}) == 4


def test_items_do_not_depend_on_workers_nor_data_sets_on_each_other(two_folders):
    def sums(num_workers, **more):
        data = data_of(two_folders, num_workers=num_workers, **more)
        loader = VideoDataModule(data, 64, seed=0).train_dataloader()
        return [batch.img_batch.sum().item() for epoch in (0, 1) for batch in read(loader, epoch)]

    assert sums(0) == sums(2)
    twins = DataConfig(
        num_frames=2, sources=[{"source": "synthetic", "name": name} for name in ("a", "b")]
    )
    module = VideoDataModule(twins, 64, seed=0)
    module.setup()
    train = module.datasets["train"]
    assert not (train[0].frames[0].data == train[1000].frames[0].data).all()


@pytest.mark.parametrize(
    ("listed", "num_videos"), [(None, 3), (("zero", "one", "two"), 3), (("one",), 1)]
)
def test_all_or_the_listed_videos_of_a_data_set_of_weight_0_validate(
    two_folders, listed, num_videos
):
    data = data_of(two_folders)
    if listed is not None:
        (two_folders / "val.txt").write_text("\n".join(listed))
        data.sources[0].val_list = str(two_folders / "val.txt")
    data.sources[0].weight, data.sources[1].weight = 0.0, 1.0
    module = VideoDataModule(data, 64, seed=0)
    module.setup("fit")
    assert module.amounts() == {
        "first": f"no training clips, {counted(num_videos, 'validation clip')}"
        f" of {counted(num_videos, 'video')}",
        "second": "2 training clips of 2 videos, 1 validation clip of 1 video",
    }
    assert module.batches_per_epoch(1) == {"second": 2}


def test_the_start_of_a_run_states_how_long_an_epoch_is(two_folders):
    data = data_of(two_folders)
    data.sources[0].weight, data.sources[1].weight = 3.0, 1.0
    module = VideoDataModule(data, 64, seed=0)
    module.setup()
    said = _data(Config(data=data, model=ModelConfig(image_size=64)), module, 1).splitlines()
    amounts = "2 training clips of 2 videos, 1 validation clip of 1 video"
    assert said[0] == f"first: vos_folder in {two_folders}/a: {amounts}"
    assert said[1].split() == "3 frames of 64 px, batches of 1, 3 of them per epoch (75%)".split()
    assert said[4].strip() == "an epoch has 4 batches, each of one data set"


def test_a_run_stores_what_a_data_set_has_other_than_data(tmp_path):
    own = "{source: synthetic, name: a, num_frames: 3}, {source: sav, root: /b}"
    config = to_config(compose_command_line(["data.num_frames=6", f"data.sources=[{own}]"])[0])
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        store_settings(config, tmp_path)
    (stored,) = tmp_path.iterdir()
    assert {name: (value, default) for name, value, default in json.loads(stored.read_text())} == {
        "data.num_frames": ("6", "4"),
        "data.sources[0].num_frames": ("3", "6"),
        "data.sources[0].name": ('"a"', "null"),
        "data.sources[1].source": ('"sav"', '"synthetic"'),
        "data.sources[1].root": ('"/b"', "null"),
        "data.sources[1].annotation_folder": ('"."', '"Annotations"'),
        "data.sources[1].name": ('"sav"', "null"),
    }


def test_slots_and_objects_do_not_go_together():
    sources = [
        {"source": "synthetic"},
        {"source": "coco_video", "train_annotations": "x.json"},
    ]
    with pytest.raises(DataError, match=r"^data\.sources\[1\] has one mask slot per category and"):
        VideoDataModule(DataConfig(sources=sources), 64, 0)


def test_errors_in_the_data_name_the_data_set(two_folders):
    data = data_of(two_folders)
    data.sources[1].root = str(two_folders / "nowhere")
    with pytest.raises(DataError, match=r"data\.sources\[1\]\.root=\S+nowhere: "):
        VideoDataModule(data, 64, 0).setup()
    data.sources[1].source = "auto"
    with pytest.raises(DataError, match=r"data\.sources\[1\]\.root=\S+nowhere: "):
        VideoDataModule(data, 64, 0)


@pytest.mark.parametrize(
    ("frames", "weight", "alone"), [(4, None, False), (1, 1, True), (4, 0, True)]
)
def test_images_train_alone_where_no_data_set_that_trains_has_videos(frames, weight, alone):
    first = {"source": "synthetic", "num_frames": frames, "weight": weight}
    images = {**first, "name": "images", "num_frames": 1, "weight": None if weight is None else 1}
    sources = [first, images]
    assert VideoDataModule(DataConfig(sources=sources), 64, 0).trains_on_images_alone == alone


def test_every_data_set_is_checked(two_folders, tmp_path, capsys):
    config = Config(data=data_of(two_folders), model=ModelConfig(image_size=64))
    reports = check_data(config, tmp_path)
    assert list(reports) == ["first/train", "first/val", "second/train", "second/val"]
    assert {(report.videos, report.objects) for report in reports.values()} == {(2, 4), (1, 2)}
    assert (tmp_path / "second" / "val_0_zero.png").is_file()
    assert "second:\ntrain: 2 videos" in capsys.readouterr().out


def test_the_check_of_a_data_set_that_only_validates_reads_what_validates(two_folders, tmp_path):
    config = Config(data=data_of(two_folders), model=ModelConfig(image_size=64))
    config.data.sources[0].weight, config.data.sources[1].weight = 0.0, 1.0
    reports = check_data(config, tmp_path)
    assert {name: report.videos for name, report in reports.items()} == {
        "first/val": 3,
        "second/train": 2,
        "second/val": 1,
    }


def test_an_evaluation_of_a_data_set_that_only_validates_has_all_videos(two_folders):
    (source, _) = data_of(two_folders).sources
    source.weight = 0.0
    assert find_videos(EvaluateConfig(data=source)).names == ["one", "two", "zero"]
    with pytest.raises(UserError, match="split=train: with weight 0 no video of this"):
        find_videos(EvaluateConfig(data=source, split="train"))


def test_evaluation_takes_one_of_the_data_sets_of_a_run(two_folders):
    run = Config(data=data_of(two_folders), seed=5)

    def chosen(*overrides):
        cfg = OmegaConf.structured(EvaluateConfig)
        for override in overrides:
            OmegaConf.update(cfg, *override.split("="))
        return combine(cfg, OmegaConf.to_object(cfg), overrides, run)

    config = chosen("source=second", "data.val_fraction=0.5")
    assert (config.data.root, config.data.val_fraction) == (str(two_folders / "b"), 0.5)
    with pytest.raises(UserError, match=r"^no source .* expected source=first or source=second$"):
        chosen()
    with pytest.raises(UserError, match=r"^source=third, but data\.sources has several"):
        chosen("source=third")
    run = Config(seed=5)
    with pytest.raises(UserError, match=r"^source=third: data\.sources has no data sets"):
        chosen("source=third")


@pytest.mark.slow
def test_two_ranks_train_on_two_data_sets_and_no_row_replaces_another(two_folders, tmp_path):
    train = TrainProcess(
        tmp_path,
        "trainer.devices=2",
        "trainer.max_steps=4",
        "data.num_frames=2",
        "model.num_correction_points=1",
        f"data.sources=[{{source: vos_folder, name: first, root: {two_folders}/a, num_frames: 3}},"
        f" {{source: vos_folder, name: second, root: {two_folders}/b}}]",
        "data.val_fraction=0.67",
        driver=["--digest"],
    )
    assert train.end() == 0, train.output
    weights = {line.split()[-1] for line in train.output.splitlines() if "weights" in line[:14]}
    assert len([word for word in weights if len(word) == 64]) == 1, train.output
    table = (train.run_dir / "metrics" / "val_step4.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    keys = ("video", "clip", "first_frame", "object")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        (name, str(number), first, object_id)
        for number, (name, first) in enumerate(
            [
                ("first/two", "0"),
                ("first/zero", "0"),
                ("second/two (clip 1 of 2)", "0"),
                ("second/zero (clip 1 of 2)", "0"),
                ("second/two (clip 2 of 2)", "3"),
                ("second/zero (clip 2 of 2)", "3"),
            ]
        )
        for object_id in ("1", "2")
    ]
