"""Properties over random and broken input: what is promised is returned, or the error is named.

The suite runs a few cases of each property; `make fuzz` runs every one of them for long.
"""

import dataclasses
import inspect
import logging
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import RememberingLogger
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import core.utils
from core.config import VisualizationsConfig
from core.trainer import VisualizationsMixin
from core.utils import (
    PromptData,
    build_prompts_from_gt_first_frame,
    create_composite_visualization,
    extract_category_preds,
    log_training_visualizations,
    safe_log_image,
    to_category_gt_masks,
    to_video_frames,
)
from core.visualization import visualizer_of

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    # What is raised on the worker's thread is a defect too.
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Glyph .* missing from font"),
    pytest.mark.filterwarnings("ignore:Casting complex values to real"),
]
SHORT, LONG = 15, 360
FORMS = pytest.mark.parametrize(
    "num_cases", [SHORT, pytest.param(LONG, marks=[pytest.mark.fuzz, pytest.mark.timeout(600)])]
)


@pytest.fixture
def quiet():
    """Thousands of tracebacks that nobody reads keep every tensor of their frames alive."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def explore(num_cases, check, **strategies):
    """Call `check` with so many random cases, the same ones every time."""
    options = settings(
        max_examples=num_cases,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # shrinking a failure takes minutes, and tensors read well
        suppress_health_check=list(HealthCheck),
    )
    options(given(**strategies)(check))()


def is_named(error, *names):
    """Check that a refusal says which argument it is about."""
    assert any(name in str(error) for name in names), error


DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.uint8, torch.bool,
)  # fmt: skip
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -1024.0, 1e30, -1.0, 2.0)


def make_tensor(seed, shape, dtypes) -> torch.Tensor:
    """A tensor of given or random shape, contiguous or not, some values special."""
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    if shape is None:
        shape = [choose.randint(0, 5) for _ in range(choose.randint(0, 5))]
    values = torch.randn(tuple(shape), generator=generator) * choose.choice([1, 10, 300])
    if choose.random() < 0.5:
        special = torch.tensor(SPECIAL)[torch.randint(8, tuple(shape), generator=generator)]
        values = torch.where(torch.rand(tuple(shape), generator=generator) < 0.2, special, values)
    values = values.to(choose.choice(dtypes))
    if values.ndim > 1 and choose.random() < 0.5:
        values = values.transpose(0, 1).contiguous().transpose(0, 1)
    return values.requires_grad_(values.is_floating_point() and choose.random() < 0.5)


def tensors(shape=None, dtypes=DTYPES):
    # One draw per tensor: drawing each of its properties would take most of the time.
    return st.integers(0, 2**31).map(lambda seed: make_tensor(seed, shape, dtypes))


garbage = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.floats(),
    st.text(max_size=5),
    tensors(),
    st.builds(lambda tensor: tensor.detach().float().numpy(), tensors()),
    st.lists(st.one_of(st.none(), st.integers(), tensors()), max_size=3),
    st.just({}),
    st.builds(object),
)


# A device whose memory cannot be read: for the hook alone, public functions take real tensors.
unreadable = tensors().map(lambda tensor: torch.empty(tensor.shape, device="meta"))


@st.composite
def batches(draw):
    """A batch in the official layout and its number of frames, objects and pixels."""
    num_frames, num_videos = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rows = [video for video in range(num_videos) for _ in range(draw(st.integers(0, 3)))]
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    num_objects = len(rows)
    layout = torch.zeros(num_frames, num_objects, 2, dtype=torch.int32)
    layout[..., 0] = torch.arange(num_frames)[:, None]
    layout[..., 1] = torch.tensor(rows, dtype=torch.int32)
    identifiers = torch.zeros(num_frames, num_objects, 3, dtype=torch.int64)
    identifiers[..., 0], identifiers[..., 1] = layout[..., 1], torch.arange(num_objects)
    identifiers[..., 2] = layout[..., 0]
    floats = (torch.float32, torch.float16, torch.bfloat16)
    masks = draw(tensors((num_frames, num_objects, height, width), (torch.bool,)))
    return SimpleNamespace(
        img_batch=draw(tensors((num_frames, num_videos, 3, height, width), floats)),
        masks=masks,
        obj_to_frame_idx=layout,
        metadata=SimpleNamespace(unique_objects_identifier=identifiers),
    )


@st.composite
def outputs(draw, batch):
    """What SAM 2 returns for `batch`: logits, prompts and scores."""
    num_frames, num_objects, height, width = batch.masks.shape
    frames = []
    for _ in range(num_frames):
        frame = {"pred_masks_high_res": draw(tensors((num_objects, 1, height, width), DTYPES[:4]))}
        if draw(st.booleans()):
            frame["point_inputs"] = frame["mask_inputs"] = None
            num_rows = draw(st.sampled_from([num_objects, num_objects, 2]))
            if draw(st.booleans()):
                shape = (num_rows, 1, height, width)
                frame["mask_inputs"] = draw(tensors(shape, (torch.bool, torch.float32)))
            else:
                num_clicks = draw(st.integers(0, 3))
                clicks = {
                    "point_coords": draw(tensors((num_rows, num_clicks, 2), DTYPES[:1])),
                    "point_labels": torch.randint(-1, 4, (num_rows, num_clicks)),
                }
                frame["point_inputs"] = clicks
                frame["multistep_point_inputs"] = [None, clicks][draw(st.integers(0, 1)) :]
        if draw(st.booleans()):
            frame["multistep_pred_ious"] = [draw(tensors((num_objects, 3), DTYPES[:1]))]
            frame["multistep_object_score_logits"] = [draw(tensors((num_objects, 1), DTYPES[:1]))]
        frames.append(frame)
    return frames


@st.composite
def pairs(draw, broken, garbage=garbage):
    """A batch and its outputs; with `broken` a few of their parts replaced by anything at all."""
    batch = draw(batches())
    outs = draw(outputs(batch))
    if not broken:
        return batch, outs
    for _ in range(draw(st.integers(1, 3))):
        target = draw(st.sampled_from(["batch", "frame", "clicks", "batch field gone", "outs"]))
        if target == "batch":
            name = draw(st.sampled_from(["img_batch", "masks", "obj_to_frame_idx", "metadata"]))
            setattr(batch, name, draw(garbage))
        elif target == "batch field gone" and vars(batch):
            delattr(batch, draw(st.sampled_from(sorted(vars(batch)))))
        elif target == "outs":
            lengths = [outs * 2, outs[:-1]] if isinstance(outs, list) else [[]]
            outs = draw(st.one_of(st.sampled_from(lengths), garbage))
        elif isinstance(outs, list) and outs and isinstance(outs[0], dict):
            names = [
                "pred_masks_high_res", "point_inputs", "mask_inputs", "multistep_point_inputs",
                "multistep_pred_ious", "multistep_object_score_logits",
            ]  # fmt: skip
            value = draw(garbage)
            if target == "clicks":
                value = {"point_coords": value, "point_labels": draw(garbage)}
            outs[0][draw(st.sampled_from(names))] = value
    return draw(st.sampled_from([batch, batch, batch, None, "batch", 7])), outs


def same(one, other) -> bool:
    return torch.equal(one.nan_to_num(7), other.nan_to_num(7))


@FORMS
def test_frames_and_ground_truth_keep_their_promise(num_cases):
    def check(batch, video, num_categories):
        images, masks = batch.img_batch.detach().clone(), batch.masks.clone()
        num_frames, num_videos, _, height, width = images.shape
        if not 0 <= video < num_videos:
            with pytest.raises(IndexError, match="video_idx must be in"):
                to_video_frames(batch, video)
            with pytest.raises(IndexError, match="video_idx must be in"):
                to_category_gt_masks(batch, num_categories, video)
            return
        frames = to_video_frames(batch, video)
        assert frames.shape == (num_frames, 3, height, width)
        assert frames.dtype == torch.float32
        assert bool(((frames >= 0) & (frames <= 1)).all())
        gt = to_category_gt_masks(batch, num_categories, video)
        rows = torch.nonzero(batch.obj_to_frame_idx[0, :, 1] == video).flatten()
        count = len(rows) if num_categories is None else num_categories
        assert gt.shape == (num_frames, count, height, width)
        assert gt.dtype == torch.bool
        assert torch.equal(gt[:, : len(rows)], masks[:, rows[:count]])
        assert not gt[:, len(rows) :].any()
        gt.logical_not_()
        assert same(batch.img_batch, images)
        assert torch.equal(batch.masks, masks)

    explore(
        num_cases,
        check,
        batch=batches(),
        video=st.integers(-1, 3),
        num_categories=st.one_of(st.none(), st.integers(1, 5)),
    )


@FORMS
def test_broken_batches_raise_documented_errors(num_cases):
    def check(pair, video, num_categories):
        batch, outs = pair
        for call in (
            lambda: to_video_frames(batch, video),
            lambda: to_category_gt_masks(batch, num_categories, video),
            lambda: extract_category_preds(outs),
        ):
            try:
                result = call()
            except (TypeError, ValueError, IndexError, KeyError) as error:
                is_named(error, "batch.", "video_idx", "num_categories", "outs_per_frame")
            else:
                assert isinstance(result, torch.Tensor)
                assert result.ndim == 4

    explore(
        num_cases,
        check,
        pair=pairs(broken=True),
        video=st.one_of(st.integers(-1, 2), garbage),
        num_categories=st.one_of(st.none(), st.integers(-1, 3), st.text(max_size=2), st.floats()),
    )


@FORMS
def test_probabilities_keep_their_promise(num_cases):
    def check(pair):
        batch, outs = pair
        before = [frame["pred_masks_high_res"].detach().clone() for frame in outs]
        probabilities = extract_category_preds(outs)
        assert probabilities.shape == batch.masks.shape
        assert probabilities.dtype == torch.float32
        assert bool(((probabilities >= 0) & (probabilities <= 1)).all())
        for t, logits in enumerate(before):
            finite = torch.isfinite(logits[:, 0])
            drawn = probabilities[t] > 0.5
            assert torch.equal(drawn & ~finite, torch.zeros_like(drawn))
            # float32 probabilities cannot tell the smallest logits from 0
            clear = logits[:, 0].float().abs() > 1e-6
            assert torch.equal((drawn == (logits[:, 0] > 0))[finite & clear].all(), torch.tensor(1))
            assert same(outs[t]["pred_masks_high_res"].detach(), logits)

    explore(num_cases, check, pair=pairs(broken=False))


@FORMS
def test_prompts_follow_the_first_frame_or_raise(num_cases):
    def check(masks, prompt_type):
        known = isinstance(prompt_type, str) and prompt_type in ("point", "bbox", "mask")
        if not isinstance(masks, torch.Tensor):
            with pytest.raises(TypeError, match="gt_masks_tchw"):
                build_prompts_from_gt_first_frame(masks, prompt_type)
            return
        if masks.ndim != 4 or len(masks) == 0 or not known:
            with pytest.raises(ValueError, match=r"gt_masks_tchw|prompt_type"):
                build_prompts_from_gt_first_frame(masks, prompt_type)
            return
        prompts = build_prompts_from_gt_first_frame(masks, prompt_type)
        inside = masks[0].detach() > 0
        assert [p.obj_id for p in prompts] == [k for k, mask in enumerate(inside) if mask.any()]
        for prompt in prompts:
            mask = inside[prompt.obj_id]
            if prompt_type == "mask":
                assert torch.equal(prompt.mask, mask)
            elif prompt_type == "bbox":
                x0, y0, x1, y1 = prompt.bbox.int().tolist()
                assert mask[y0 : y1 + 1, x0 : x1 + 1].sum() == mask.sum()
            else:
                x, y = prompt.points[0].int().tolist()
                assert mask[y, x]

    explore(
        num_cases,
        check,
        masks=st.one_of(
            tensors((2, 3, 6, 5)), tensors(), st.none(), st.text(max_size=2), st.floats()
        ),
        prompt_type=st.one_of(
            st.sampled_from(["point", "bbox", "mask"]),
            st.sampled_from(["point", "bbox", "mask"]),
            st.text(max_size=5),
            st.none(),
            st.just([]),
            tensors(),
        ),
    )


@FORMS
def test_prompt_data_is_valid_or_refused(num_cases):
    def check(fields):
        try:
            prompt = PromptData(**fields)
        except (TypeError, ValueError) as error:
            names = ("points", "labels", "bbox", "mask", "rounds", "prompt_type", "obj_id")
            is_named(error, *names)
            return
        assert prompt.obj_id >= -1
        if prompt.prompt_type == "point":
            assert prompt.points.shape == (len(prompt.labels), 2)
        elif prompt.prompt_type == "bbox":
            assert prompt.bbox.shape == (4,)
        else:
            assert prompt.mask.ndim == 2

    value = st.one_of(
        st.none(), tensors((2, 2)), tensors((2,)), tensors((4,)), tensors((6, 5)), garbage
    )
    explore(
        num_cases,
        check,
        fields=st.fixed_dictionaries(
            {
                "prompt_type": st.one_of(st.sampled_from(["point", "bbox", "mask"]), garbage),
                "obj_id": st.one_of(st.integers(-3, 30), garbage),
                "points": value,
                "labels": value,
                "bbox": value,
                "mask": value,
                "rounds": st.one_of(st.none(), value),
            }
        ),
    )


@st.composite
def prompt_lists(draw, height, width):
    prompts = []
    for _ in range(draw(st.integers(0, 3))):
        obj_id = draw(st.integers(-1, 30))
        kind = draw(st.sampled_from(["point", "bbox", "mask"]))
        if kind == "point":
            count = draw(st.integers(0, 3))
            fields = {
                "points": draw(tensors((count, 2), DTYPES[:4])),
                "labels": draw(tensors((count,), DTYPES[4:6])),
                "rounds": draw(st.one_of(st.none(), tensors((count,), DTYPES[4:6]))),
            }
        elif kind == "bbox":
            fields = {"bbox": draw(tensors((4,), DTYPES[:6]))}
        else:
            fields = {"mask": draw(tensors((height, width)))}
        prompts.append(PromptData(kind, obj_id, **fields))
    return prompts


@st.composite
def composites(draw):
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    masks = st.one_of(
        st.none(), st.integers(0, 4).flatmap(lambda count: tensors((count, height, width)))
    )
    arguments = {
        "image": draw(st.one_of(tensors((3, height, width)), tensors((height, width, 3)))),
        "gt_mask": draw(masks),
        "pred_mask": draw(masks),
        "prompts": draw(st.one_of(st.none(), prompt_lists(height, width))),
        "title": draw(st.text(max_size=30)),
        "num_categories": draw(st.integers(1, 15)),
    }
    if draw(st.booleans()):
        arguments[draw(st.sampled_from(sorted(arguments)))] = draw(garbage)
    return arguments


@FORMS
def test_composites_are_drawn_or_refused(num_cases):
    def check(arguments):
        image = arguments["image"]
        before = image.clone() if isinstance(image, torch.Tensor) else None
        try:
            picture = create_composite_visualization(**arguments)
        except (TypeError, ValueError) as error:
            is_named(error, "image", "gt_mask", "pred_mask", "prompt", "num_categories")
            return
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert picture.flags.c_contiguous
        assert picture.flags.owndata
        if before is not None and before.device.type == "cpu":
            assert same(image.detach(), before.detach())

    explore(num_cases, check, arguments=composites())


class OddLogger:
    """A logger of random habits."""

    def __init__(self, habit):
        self.habit = habit
        if habit == "metrics":
            self.log_metrics = lambda *args, **kwargs: None

    def __getattr__(self, name):
        if self.habit == "raises on lookup":
            raise RuntimeError(name)
        if self.habit == "returns itself":
            return self
        if name == "log_image" and self.habit in ("raises", "few keywords", "takes", "metrics"):
            return getattr(self, self.habit.replace(" ", "_") + "_images", self.takes_images)
        raise AttributeError(name)

    def raises_images(self, key, images, step=None):
        raise OSError("disk full")

    def few_keywords_images(self, key, images):
        pass

    def takes_images(self, key, images, **keywords):
        pass


one_logger = st.one_of(
    st.sampled_from(
        ["raises on lookup", "returns itself", "raises", "few keywords", "takes", "metrics", "none"]
    ).map(OddLogger),
    st.none(),
    st.text(max_size=3),
    st.integers(),
)
loggers = st.one_of(one_logger, st.lists(one_logger, max_size=3))


@FORMS
def test_logging_an_image_never_raises(num_cases):
    def check(logger, key, image, step, caption):
        assert safe_log_image(logger, key, image, step, caption=caption) in (True, False)
        assert safe_log_image(None, key, image, step, caption=caption) is False

    explore(
        num_cases,
        check,
        logger=loggers,
        key=st.one_of(st.text(max_size=8), garbage),
        image=st.one_of(tensors((3, 4, 5)), st.lists(tensors((4, 5)), max_size=3), garbage),
        step=st.one_of(st.integers(0, 5), garbage),
        caption=garbage,
    )


def is_refused(name, value):
    try:
        VisualizationsConfig(**{name: value})
    except ValueError:
        return True
    return False


@FORMS
@pytest.mark.parametrize("broken", [False, True])
def test_logging_a_batch_returns_a_bool_or_names_what_is_wrong(num_cases, broken):
    def check(pair, logger, options):
        numbers = ("max_frames", "max_videos", "frame_stride")
        wrong = [name for name in numbers if is_refused(name, options[name])]
        try:
            result = log_training_visualizations(logger, *pair, **options)
        except (TypeError, ValueError) as error:
            if not broken:
                raise
            parts = ("batch", "outs_per_frame", "pred_masks_high_res")
            is_named(error, *([f"visualizations.{name} must be" for name in wrong] or parts))
        else:
            assert not wrong
            assert result in (True, False)

    number = st.integers(1, 4) if not broken else st.one_of(st.integers(-1, 4), garbage)
    explore(
        num_cases // 2,
        check,
        pair=pairs(broken=broken),
        logger=loggers,
        options=st.fixed_dictionaries(
            {
                "stage": st.sampled_from(["train", "val"]),
                "step": st.integers(0, 5),
                "max_frames": number,
                "max_videos": number,
                "frame_stride": number,
                "panel_size": st.sampled_from([64, 100]),
            }
        ),
    )


class Module(VisualizationsMixin):
    """The mixin on something that is not even a LightningModule."""


FIELD_VALUES = st.one_of(garbage, st.integers(-2, 300), st.floats(-1, 2))


@st.composite
def modules(draw):
    section = VisualizationsConfig(
        enabled=True, every_n_steps=1, flush_timeout_s=20, panel_size=64, run_book=False
    )
    kind = draw(st.sampled_from(["fine", "fine", "fine", "fine", "worst", "field", "garbage"]))
    if kind == "worst":
        section.worst_clips, section.animation = 2, True
    elif kind == "field":
        name = draw(st.sampled_from([field.name for field in dataclasses.fields(section)]))
        section = dataclasses.asdict(section) | {name: draw(FIELD_VALUES)}
        # Some ask for a long wait, others for exceptions.
        if name == "flush_timeout_s" or (name == "strict" and section[name] is True):
            del section[name]
    elif kind == "garbage":
        section = draw(garbage)
    module = Module()
    module.config = SimpleNamespace(visualizations=section)
    if draw(st.integers(0, 9)) == 0:
        del module.config.visualizations
    module.trainer = SimpleNamespace(
        is_global_zero=True,
        sanity_checking=False,
        global_step=0,
        current_epoch=0,
        loggers=draw(st.one_of(st.lists(one_logger, max_size=2), garbage)),
        callbacks=[],
    )
    for name in ("datamodule", "global_step", "current_epoch", "callbacks", "loggers"):
        if draw(st.integers(0, 14)) == 0:
            setattr(module.trainer, name, draw(garbage))
    if draw(st.integers(0, 14)) == 0:
        delattr(module.trainer, draw(st.sampled_from(sorted(vars(module.trainer)))))
    if draw(st.integers(0, 14)) == 0:
        module.trainer = draw(garbage)
    return module


@FORMS
@pytest.mark.parametrize("broken", [False, True])
def test_the_hook_never_raises(num_cases, broken):
    def check(module, pair, batch_idx, stage, obj_to_cat):
        batch, outs = pair
        for _ in range(2):
            assert (
                module.maybe_log_visualizations(
                    batch, outs, batch_idx, stage, obj_to_cat=obj_to_cat
                )
                is None
            )
        visualizer = visualizer_of(module)
        if visualizer is not None:
            visualizer.log_worst([], 0)
            visualizer.flush()

    explore(
        num_cases * 2,
        check,
        module=modules(),
        pair=pairs(broken=broken, garbage=st.one_of(garbage, unreadable)),
        batch_idx=st.one_of(st.integers(0, 3), garbage),
        stage=st.one_of(st.sampled_from(["train", "val"]), garbage),
        obj_to_cat=st.one_of(st.none(), st.lists(st.integers(-2, 9), max_size=3), garbage),
    )


@FORMS
def test_the_section_builds_or_names_field_and_value(num_cases):
    defaults = VisualizationsConfig()

    def check(name, value):
        try:
            section = VisualizationsConfig(**{name: value})
        except ValueError as error:
            is_named(error, f"visualizations.{name} must be")
            is_named(error, "got " + repr(value).replace("\n", "\\n"))
            return
        kinds = {bool: bool, int: int, float: (int, float), str: str, type(None): (int, type(None))}
        kind = (str, type(None)) if name == "run_dir" else kinds[type(getattr(defaults, name))]
        assert isinstance(getattr(section, name), kind)

    names = [field.name for field in dataclasses.fields(VisualizationsConfig)]
    explore(num_cases * 2, check, name=st.sampled_from(names), value=FIELD_VALUES)


def property_tests():
    """The tests above that come in a short and a long form."""
    return [
        test
        for name, test in globals().items()
        if name.startswith("test_")
        and any("num_cases" in mark.args for mark in getattr(test, "pytestmark", ()))
    ]


@pytest.mark.parametrize("name", core.utils.__all__)
def test_every_public_function_has_a_property_test(name):
    assert any(f" {name}(" in inspect.getsource(test) for test in property_tests())


@pytest.mark.parametrize(("num_cases", "at_least"), [(SHORT, 200), (LONG, 5000)])
def test_the_forms_have_as_many_cases_as_promised(num_cases, at_least, monkeypatch):
    asked = []
    monkeypatch.setitem(globals(), "explore", lambda count, check, **_: asked.append(count))
    for test in property_tests():
        forms = [mark for mark in test.pytestmark if "broken" in mark.args]
        for options in [{"broken": value} for value in (False, True)] if forms else [{}]:
            test(num_cases, **options)
    assert sum(asked) >= at_least


def test_an_interrupt_passes_through_the_hook():
    class Interrupted:
        img_batch = torch.zeros(1, 1, 3, 8, 8)

        @property
        def masks(self):
            raise KeyboardInterrupt

    module = Module()
    module.config = SimpleNamespace(visualizations={"enabled": True})
    module.trainer = SimpleNamespace(
        is_global_zero=True,
        sanity_checking=False,
        global_step=0,
        current_epoch=0,
        loggers=[RememberingLogger()],
    )
    with pytest.raises(KeyboardInterrupt):
        module.maybe_log_visualizations(Interrupted(), [], 0, "train")


@pytest.mark.parametrize(
    ("enabled", "rank_zero", "sanity", "step", "looked_at"),
    [
        (False, True, False, 0, []),
        (True, False, False, 0, ["is_global_zero"]),
        (True, True, True, 0, ["is_global_zero", "sanity_checking"]),
        (
            True,
            True,
            False,
            3,
            ["is_global_zero", "sanity_checking", "current_epoch", "global_step"],
        ),
    ],
)
def test_the_guard_returns_before_anything_else_is_looked_at(
    enabled, rank_zero, sanity, step, looked_at
):
    values = {
        "is_global_zero": rank_zero,
        "sanity_checking": sanity,
        "global_step": step,
        "current_epoch": 1,
        "loggers": [RememberingLogger()],
        "callbacks": [],
    }
    seen = []

    class Trainer:
        def __getattr__(self, name):
            seen.append(name)
            if name not in values:
                raise AttributeError(name)
            return values[name]

    module = Module()
    module.config = SimpleNamespace(visualizations={"enabled": enabled, "every_n_steps": 2})
    module.trainer = Trainer()
    module.maybe_log_visualizations(None, None, 0, "train")  # the first call adds a callback
    seen.clear()
    module.maybe_log_visualizations(None, None, 0, "train")
    assert seen == looked_at


def test_a_module_without_configuration_says_so_once(caplog):
    logging.disable(logging.NOTSET)
    module = Module()
    for _ in range(3):
        module.maybe_log_visualizations(None, None, 0, "train")
    assert len(caplog.records) == 1
    assert "pictures cannot be set up; training continues without them" in caplog.text
