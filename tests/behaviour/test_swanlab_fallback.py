"""`safe_log_image` against real loggers, older ones, odd images, and none at all."""

import io
import logging

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from processes import png_files

from core.utils import safe_log_image

KEY = "train/composites"


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


@pytest.fixture
def swanlab_logger(tmp_path):
    """A real run in local mode, closed afterwards: SwanLab has one run per process."""
    import swanlab
    from swanlab.integration.pytorch_lightning import SwanLabLogger

    logger = SwanLabLogger(project="test", log_dir=str(tmp_path / "swanlog"), mode="local")
    _ = logger.experiment
    yield logger
    if swanlab.has_run():
        swanlab.finish()


class OldLogger:
    """Takes images as SwanLab's first Lightning logger did: no caption."""

    def __init__(self):
        self.calls = []

    def log_image(self, key, images, step=None):
        self.calls.append((key, images, step))


class FailingLogger:
    def log_image(self, key, images, step=None, caption=None):
        raise ConnectionError("the server is down")


def stored(tmp_path):
    paths = png_files(tmp_path / "swanlog")
    return [np.asarray(Image.open(path)) for path in paths]


def warnings_of(caplog):
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_swanlab_fallback_stores_the_exact_pixels(swanlab_logger, image, tmp_path):
    import swanlab

    other = np.ascontiguousarray(image[::-1])
    assert safe_log_image(swanlab_logger, KEY, [image, other], 3, caption=["a", "b"]) is True
    assert safe_log_image(swanlab_logger, "val/composites", image, np.int64(4)) is True
    swanlab.finish()
    wanted = sorted(array.tobytes() for array in (image, other, image))
    assert sorted(array.tobytes() for array in stored(tmp_path)) == wanted


def test_swanlab_fallback_after_the_run_is_finished_is_false(swanlab_logger, image, caplog):
    import swanlab

    swanlab.finish()
    assert safe_log_image(swanlab_logger, KEY, image, 3) is False
    assert len(warnings_of(caplog)) == 1


def test_swanlab_fallback_without_a_caption_keyword(image):
    logger = OldLogger()
    assert safe_log_image(logger, KEY, image, 3, caption="step 3") is True
    ((key, images, step),) = logger.calls
    assert (key, step) == (KEY, 3)
    assert (images[0] == image).all()


def test_swanlab_fallback_to_wandb(image, tmp_path, monkeypatch):
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="test", save_dir=tmp_path, offline=True)
    try:
        assert safe_log_image(logger, KEY, image, 3, caption="step 3") is True
    finally:
        logger.experiment.finish()
    (path,) = tmp_path.glob("wandb/offline-run-*/files/media/images/train/*.png")
    assert (np.asarray(Image.open(path)) == image).all()


def test_swanlab_fallback_to_tensorboard(image, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    assert safe_log_image(logger, KEY, image, 3) is True
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    (event,) = events.Images(KEY)
    assert event.step == 3
    assert (np.asarray(Image.open(io.BytesIO(event.encoded_image_string))) == image).all()


@pytest.mark.parametrize("failing_first", [True, False])
def test_swanlab_fallback_in_a_list_reaches_every_logger(failing_first, image, caplog):
    works = OldLogger()
    loggers = [FailingLogger(), works] if failing_first else [works, FailingLogger()]
    assert safe_log_image(loggers, KEY, image, 3) is True
    assert len(works.calls) == 1
    assert len(warnings_of(caplog)) == 1


def test_swanlab_fallback_of_a_failing_logger_is_false_with_one_warning(image, caplog):
    assert safe_log_image(FailingLogger(), KEY, image, 3) is False
    (record,) = warnings_of(caplog)
    assert KEY in record.getMessage()
    assert "the server is down" in str(record.exc_info[1])


def test_swanlab_fallback_to_csv_is_false(image, tmp_path):
    assert safe_log_image(CSVLogger(tmp_path), KEY, image, 3) is False


@pytest.mark.parametrize("logger", [None, [], [None]])
def test_swanlab_fallback_to_nothing_is_false(logger, image, caplog):
    assert safe_log_image(logger, KEY, image, 3) is False
    assert not warnings_of(caplog)


def odd(image):
    """The same picture in other forms."""
    white = (image > 127).astype(np.uint8) * 255
    grey = white[..., 0].copy()
    grey_rgb = grey[..., None].repeat(3, -1)
    return {
        "float": (white / 255, white),
        "bool": (white > 0, white),
        "CHW": (white.transpose(2, 0, 1), white),
        "grey": (grey, grey_rgb),
        "grey with a channel": (grey[..., None], grey_rgb),
        "torch CHW": (torch.from_numpy(white.transpose(2, 0, 1).copy()), white),
        "torch bf16": (torch.from_numpy(white / 255).bfloat16(), white),
        "torch with a graph": (torch.from_numpy(white / 255).requires_grad_(), white),
        "strided": (white.repeat(2, 1)[:, ::2], white),
        "NaN": (np.where(white > 0, 1.0, np.nan), white),
        "int64": (white.astype(np.int64), white),
    }


@pytest.mark.parametrize("form", list(odd(np.zeros((2, 2, 3)))))
def test_swanlab_fallback_gives_every_form_as_plain_bytes(form, image):
    logger = OldLogger()
    given, wanted = odd(image)[form]
    assert safe_log_image(logger, KEY, given, 0) is True
    (array,) = logger.calls[0][1]
    assert array.dtype == np.uint8
    assert array.flags["C_CONTIGUOUS"]
    assert (array == wanted).all()


def test_swanlab_fallback_owns_what_it_hands_over(image):
    logger = OldLogger()
    before = image.copy()
    safe_log_image(logger, KEY, image, 0)
    logger.calls[0][1][0][:] = 0
    assert (image == before).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "step must be at least 0, got -1"),
        ({"step": float("nan")}, "NaN"),
        ({"image": "sheet.png"}, "image must be an array or tensor, got str"),
        ({"image": np.zeros((4, 4, 7))}, "image must have shape"),
        ({"image": np.zeros((0, 4, 3))}, "image must have shape"),
        ({"image": None}, "image must be an array or tensor, got NoneType"),
    ],
)
def test_swanlab_fallback_refuses_with_one_warning(change, message, image, caplog):
    logger = OldLogger()
    assert safe_log_image(logger, KEY, **{"image": image, "step": 0, **change}) is False
    assert not logger.calls
    (record,) = warnings_of(caplog)
    assert message in str(record.exc_info[1])


def test_swanlab_fallback_step_is_a_plain_int(image):
    logger = OldLogger()
    safe_log_image(logger, KEY, image, np.int64(5))
    assert type(logger.calls[0][2]) is int


def test_swanlab_fallback_lets_an_interrupt_pass(image):
    class Interrupted:
        def log_image(self, key, images, step=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        safe_log_image(Interrupted(), KEY, image, 0)
