"""The health of a data set: each kind of problem is found where it is, and nowhere else."""

import re
import shutil

import cv2
import numpy as np
import pytest
from health_sets import HEIGHT, SPOILS, WIDTH, delay, disc, draw_video, write_video
from PIL import Image

from core.config import Config, DataConfig, ModelConfig
from core.data import DataError, VideoDataModule
from core.data.check import check_data, main
from core.data.health import alignment, likeness
from core.data.health.collect import Collection
from core.data.health.measure import ROW, find_overlaps, measure
from core.data.health.page import build_page
from core.data.health.problems import Finding, View, find_classes, find_problems, rank
from core.data.health.scan import Amount, choose_places, plan_amount, scan
from core.data.readers.label_maps import LabelMap

IMAGE_SIZE = 512


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """A data set with a video for each kind of problem and one without any."""
    root = tmp_path_factory.mktemp("set")
    for seed, (name, spoil) in enumerate(SPOILS.items()):
        write_video(root, name, seed, spoil)
    write_video(root, "good", 50)
    write_video(root, "other", 51)
    (root / "val.txt").write_text("other\n")
    return root


def config_of(root, **fields) -> Config:
    data = DataConfig(source="vos_folder", root=str(root), num_frames=2, **fields)
    return Config(data=data, model=ModelConfig(image_size=IMAGE_SIZE))


def datasets_of(root, **fields) -> dict:
    module = VideoDataModule(config_of(root, **fields).data, IMAGE_SIZE, 0)
    module.setup()
    return module.datasets


def findings_of(root, amount=None, **fields) -> dict[str, list[Finding]]:
    """Return what is found, by the video's name."""
    dataset = datasets_of(root, **fields)["train"]
    return {
        dataset.reader.names[found.video]: find_problems(found, "train", IMAGE_SIZE, False)
        for found in scan(dataset, amount or Amount(), "train")
    }


@pytest.fixture(scope="module")
def found(spoiled):
    return findings_of(spoiled, val_list="val.txt")


@pytest.mark.parametrize("kind", SPOILS)
def test_a_problem_is_found_alone_and_in_its_video(found, kind):
    assert [finding.kind for finding in found[kind]] == [kind]


def test_a_good_video_has_no_problem(found):
    assert found["good"] == []


TEXTS = {
    "two ids": "object 1 ends in frame 3, and object 7 begins in its place in frame 4",
    "gaps": "object 2 is missing in frame 3 and is in the same place in frames 2 and 4",
    "brief": "object 5 is there in frame 2 alone, of 8",
    "tiny": "object 1 has no more than 9 pixels in any of 8 frames: 6.4 x 6.4 at"
    " model.image_size=512",
    "slips": "object 1 has 2 specks and 1 hole of at most 4 pixels in frame 6, and some in 1 of 8"
    " frames",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_finding_says_what_and_where(found, kind):
    assert found[kind][0].text == TEXTS[kind]


def test_a_shift_is_found_with_its_size(found):
    first, second = found["shifted"][0].views
    # the masks were moved 16 pixels left and 10 up
    assert first.shift == (0, 0)
    assert [round(amount * WIDTH) for amount in second.shift] == [
        pytest.approx(16, abs=1),
        pytest.approx(10, abs=1),
    ]


def test_masks_of_the_frame_before_are_found(tmp_path):
    write_video(tmp_path, "a", 0, delay)
    write_video(tmp_path, "b", 1)
    (finding,) = findings_of(tmp_path)["a"]
    assert finding.kind == "shifted"
    assert finding.text == (
        "the masks fit the previous annotated frame, in 3 frames looked at: the numbers of frames"
        " and masks differ"
    )
    assert [view.frame for view in finding.views] == [0, -1]


def test_views_point_at_the_frames(found):
    views = found["gaps"][0].views
    assert [(view.place, view.objects) for view in views] == [(2, (2,)), (3, ()), (4, (2,))]
    views = found["jumps"][0].views
    assert [(view.place, view.objects) for view in views] == [(4, (2,)), (5, (2,))]
    assert found["slips"][0].views[1].spot is not None


def test_an_occlusion_after_which_an_object_is_elsewhere_is_no_gap(tmp_path):
    def hide(frames, masks):
        masks[3][masks[3] == 2] = 0
        for labels in masks[4:]:
            labels[labels == 2] = 0
            labels[disc(60, 150, 22)] = 2

    write_video(tmp_path, "a", 0, hide)
    write_video(tmp_path, "b", 1)
    assert findings_of(tmp_path)["a"] == []


def test_a_fast_object_does_not_jump(tmp_path):
    def hurry(frames, masks):
        for t, labels in enumerate(masks):
            labels[:] = 0
            labels[disc(12 + 40 * t, 90, 6)] = 1

    write_video(tmp_path, "a", 0, hurry)
    write_video(tmp_path, "b", 1)
    assert "jumps" not in {finding.kind for finding in findings_of(tmp_path)["a"]}


def test_overlapping_masks_of_one_object_are_two_ids(tmp_path):
    write_video(tmp_path, "a", 3)
    write_video(tmp_path, "b", 4)
    for t in range(8):
        path = tmp_path / "Annotations" / "a" / f"{t:05d}.png"
        labels = np.array(Image.open(path))
        path.unlink()
        twice = labels == 1
        twice[80:84, 60:64] = True  # almost the same
        for k, mask in enumerate((labels == 1, labels == 2, twice)):
            folder = path.parent / f"{k:03d}"
            folder.mkdir(exist_ok=True)
            Image.fromarray(mask.astype(np.uint8)).save(folder / path.name)
        (tmp_path / "Annotations" / "b" / path.name).unlink()
        other = tmp_path / "Annotations" / "b" / "000"
        other.mkdir(exist_ok=True)
        Image.fromarray((labels == 1).astype(np.uint8)).save(other / path.name)
    config = DataConfig(source="png_folders", root=str(tmp_path), num_frames=2)
    module = VideoDataModule(config, IMAGE_SIZE, 0)
    module.setup()
    (part,) = scan(module.datasets["train"], Amount(), "train")
    (finding,) = find_problems(part, "train", IMAGE_SIZE, False)
    assert finding.kind == "two ids"
    assert finding.text.startswith("objects 1 and 3 are the same pixels in 8 frames (IoU 0.9")
    (part,) = scan(module.datasets["val"], Amount(), "val")
    assert part.overlaps == []


def test_masks_are_measured_alike_as_label_map_and_one_by_one():
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[disc(100, 90, 30)] = 3
    labels[disc(200, 40, 20)] = 5
    labels[90, 100] = 0  # a hole
    labels[170, 300] = 5  # a speck
    apart = {key: labels == key for key in (3, 5)}
    rows = sorted(measure(LabelMap(labels), 7), key=lambda row: row[1])
    assert rows == sorted(measure(apart, 7), key=lambda row: row[1])
    rows = np.array(rows, ROW)
    assert rows["place"].tolist() == [7, 7]
    assert rows["area"].tolist() == [int(mask.sum()) for mask in apart.values()]
    assert rows["specks"].tolist() == [0, 1]
    assert rows["holes"].tolist() == [1, 0]
    assert (rows["spot_x"][0], rows["spot_y"][0]) == (100, 90)
    assert (rows["spot_x"][1], rows["spot_y"][1]) == (300, 170)
    box = [rows[name][0] for name in ("x", "y", "w", "h")]
    assert box == [70, 60, 61, 61]
    assert find_overlaps(apart, measure(apart, 7)) == []


def test_a_ring_has_no_hole_and_two_large_parts_no_speck():
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[disc(100, 90, 40) & ~disc(100, 90, 20)] = 1
    labels[disc(250, 90, 30)] = 1
    (row,) = np.array(measure(LabelMap(labels), 0), ROW)
    assert (row["specks"], row["holes"]) == (0, 0)


def edges_for(frame: np.ndarray, masks: dict) -> np.ndarray:
    edges = alignment.edges_of(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
    return alignment.edge_map(edges, alignment.outlines_of(masks, (WIDTH, HEIGHT)))


@pytest.mark.parametrize("move", [(12, 0), (0, -9), (-15, 6)])
def test_edges_tell_how_masks_are_shifted(move):
    frames, masks = draw_video(5)
    maps = [
        edges_for(frame, LabelMap(np.roll(labels, (-move[1], -move[0]), (0, 1))))
        for frame, labels in zip(frames[:3], masks, strict=False)
    ]
    found = alignment.find_shift(maps, WIDTH)
    assert (found.x * WIDTH, found.y * WIDTH) == pytest.approx(move, abs=1)


def test_masks_that_lie_anywhere_are_not_called_shifted():
    frames, _ = draw_video(5)
    places = ((250, 40), (150, 60), (280, 150))
    maps = [
        edges_for(frame, {1: disc(*place, 12)})
        for frame, place in zip(frames, places, strict=False)
    ]
    assert alignment.find_shift(maps, WIDTH) is None
    assert alignment.find_shift([], WIDTH) is None
    blank = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    assert alignment.find_shift([edges_for(blank, {1: disc(99, 99, 9)})], WIDTH) is None


def small(image: np.ndarray) -> np.ndarray:
    return likeness.shrink(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def test_a_frame_is_known_again_after_scaling_and_compression():
    frames = [draw_video(seed, 1)[0][0] for seed in range(6)]
    smaller = cv2.resize(frames[1], (200, 112), interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 50])
    again = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    pairs = likeness.find_pairs([small(again)], [small(frame) for frame in frames])
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1)]


def test_other_frames_and_flat_ones_are_like_none():
    frames = [small(draw_video(seed, 1)[0][0]) for seed in range(8)]
    assert likeness.find_pairs(frames[:4], frames[4:]) == []
    flat = [np.full((32, 36), level, np.uint8) for level in (0, 3)]
    assert likeness.find_pairs(flat, flat) == []
    assert likeness.find_pairs([], frames) == []


def test_a_hash_says_where_it_gets_brighter():
    rising = np.tile(np.arange(36, dtype=np.uint8) * 7, (32, 1))
    assert likeness.difference_hash(rising).all()
    assert not likeness.difference_hash(rising[:, ::-1].copy()).any()
    rising[16:] = rising[16:, ::-1]
    assert likeness.difference_hash(rising).tolist() == [True] * 32 + [False] * 32


def collection_of(root, **fields) -> Collection:
    collection = Collection(IMAGE_SIZE, False)
    for name, dataset in datasets_of(root, **fields).items():
        visit = collection.open(name, dataset.reader, dataset.training)
        for part in scan(dataset, Amount(), name):
            visit(part)
    return collection


def test_a_video_of_validation_that_is_in_training_is_found(tmp_path):
    for name, seed in (("a", 1), ("b", 2), ("copy of a", 1), ("z", 3)):
        write_video(tmp_path, name, seed)
    (tmp_path / "val.txt").write_text("copy of a\nz\n")
    collection = collection_of(tmp_path, val_list="val.txt")
    (finding,) = collection.findings()
    assert (finding.kind, finding.video) == ("duplicates", ("val", 2))
    assert finding.text == "8 of 8 frames looked at are almost the same as frames of train: a"
    split = collection.splits["train"]
    assert (split.videos, split.masks_read, split.masks, sum(split.sides)) == (2, 16, 16, 4)
    assert split.lifetimes == [0, 0, 0, 0, 0, 4]


def test_classes_that_a_split_lacks_are_told():
    counts = {"train": {"cat": 9, "dog": 2, "owl": 5}, "val": {"cat": 1, "dog": 1, "fox": 4}}
    examples = {(split, name): View(split, 0, 0) for split in counts for name in counts[split]}
    found = find_classes(counts, examples, "train", "val")
    assert [(finding.text, finding.views[0].split) for finding in found] == [
        ("dog: 2 objects in training, 1 in validation", "train"),
        ("fox: 4 objects in validation, none in training", "val"),
        ("owl: 5 objects in training, none in validation", "train"),
    ]
    assert find_classes({"train": {"cat": 3}, "val": {"cat": 1}}, examples, "train", "val") == []


def test_what_harms_more_and_concerns_more_videos_comes_first():
    def finding(kind, video, weight=1.0):
        return Finding(kind, ("train", video), f"{kind} {weight}", weight, ())

    found = [
        finding("slips", 0), finding("slips", 1), finding("slips", 2),
        finding("gaps", 0), finding("gaps", 0, 2.0), finding("tiny", 0), finding("tiny", 1),
        finding("two ids", 3),
    ]  # fmt: skip
    ranked = rank(found, 10)
    assert [kind for kind, _ in ranked] == ["two ids", "tiny", "gaps", "slips"]
    assert [each.weight for each in ranked[2][1]] == [2.0, 1.0]


@pytest.mark.parametrize(
    ("num_frames", "share", "places"),
    [
        (5, 1.0, [0, 1, 2, 3, 4]),
        (100, 0.06, [0, 1, 49, 50, 98, 99]),
        (70, 0.01, [0, 1]),
        (1, 0.5, [0]),
        (2, 0.1, [0, 1]),
    ],
)
def test_frames_that_are_read_are_pairs_evenly_spaced(num_frames, share, places):
    assert choose_places(num_frames, share).tolist() == places


def test_only_what_fits_into_the_time_is_read(spoiled):
    datasets = list(datasets_of(spoiled, val_list="val.txt").values())
    assert plan_amount(datasets, False, 1000) == Amount()
    hasty = plan_amount(datasets, False, 1e-9)
    assert hasty.every >= 4
    assert not hasty.frames
    whole = plan_amount(datasets, True, 1e-9)
    assert (whole.share, whole.every, whole.frames) == (1, 1, False)


def test_a_sampled_video_still_shows_what_its_pairs_show(spoiled):
    dataset = datasets_of(spoiled, val_list="val.txt")["train"]
    amount = Amount(share=0.5, every=2, frames=False, thumbnails=1, parts=2)
    scans = list(scan(dataset, amount, "train"))
    read = [(len(found.places), found.num_frames) for found in scans]
    assert read == [(4, 8), (0, 8)] * 4 + [(4, 8)]
    assert scans[0].places == [0, 1, 6, 7]
    assert [found.decoded for found in scans] == [1, 0] * 4 + [1]


def test_worker_processes_find_the_same(spoiled, found):
    again = findings_of(spoiled, Amount(workers=2, parts=3), val_list="val.txt")
    assert again == found


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_mask_ends_in_its_sentence(tmp_path, workers):
    write_video(tmp_path, "a", 0)
    write_video(tmp_path, "b", 1)
    path = tmp_path / "Annotations" / "a" / "00005.png"
    path.write_bytes(path.read_bytes()[:-30])
    dataset = datasets_of(tmp_path)["train"]
    with pytest.raises(DataError, match=r"^mask \S+00005\.png cannot be read"):
        list(scan(dataset, Amount(workers=workers), "train"))


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "{{script}} \udcff",
)


def test_names_are_text_on_the_page(tmp_path):
    collection = collection_of_hostile(tmp_path)
    ranked = rank(collection.findings(), collection.num_videos)
    html = build_page("Data check · <b>", [f"in {tmp_path}/x.png"], collection, ranked, [])
    html.encode()
    data = html.split('id="book">')[1].split("</script>")[0]
    assert not re.search("<[/!s]", data, re.IGNORECASE)
    assert str(tmp_path) not in html
    assert "alert(1)" in data  # as text of the JSON alone
    assert html.count("alert(1)") == data.count("alert(1)")


def collection_of_hostile(root) -> Collection:
    for seed, name in enumerate(HOSTILE):
        # a name of a folder has no slash
        write_video(root, name.replace("/", "\u2215"), seed, SPOILS["gaps"])
    write_video(root, "b", 9)
    return collection_of(root)


def test_the_check_writes_one_page_and_says_how_much_it_read(
    spoiled, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("core.data.check.SHEETS_PER_SPLIT", 1)
    check_data(config_of(spoiled, val_list="val.txt"), tmp_path)
    said = capsys.readouterr().out
    assert "read 80 of 80 masks and decoded 80 of 80 frames" in said
    assert "One object goes by two ids: 1 in 1 video" in said
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    # pictures of the findings, and a sheet for each of the first clips
    assert html.count('"src":"data:image/jpeg;base64,') >= 8 + 2
    assert "augmented, as in training" in html
    assert str(spoiled) not in html


def test_all_reads_every_mask(tmp_path, monkeypatch, capsys):
    for seed, name in enumerate("abc"):
        write_video(tmp_path, name, seed, num_frames=4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("core.data.check._SECONDS", 0)
    monkeypatch.setattr("core.data.check._FEWEST_SECONDS", 1e-9)
    monkeypatch.setattr("core.data.check.SHEETS_PER_SPLIT", 1)
    arguments = ["data=vos_folder", "data.root=.", "model.image_size=64", "data.num_frames=2"]
    main(arguments)
    # a pair of the first video of each split
    assert "read 4 of 12 masks and decoded 4 of 12 frames; --all" in capsys.readouterr().out
    main(["--all", *arguments])
    assert "read 12 of 12 masks and decoded " in capsys.readouterr().out


def test_a_frame_that_cannot_be_shown_is_named_on_the_page(tmp_path):
    write_video(tmp_path, "a", 0, SPOILS["gaps"])
    write_video(tmp_path, "b", 1)
    collection = collection_of(tmp_path)
    shutil.rmtree(tmp_path / "JPEGImages" / "a")
    ranked = rank(collection.findings(), collection.num_videos)
    assert "does not exist" in build_page("x", [], collection, ranked, [])
