"""One image, page or text to any logger: encoding, and what each logger takes."""

import dataclasses
import inspect
import io
import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Protocol

import numpy as np
from PIL import Image

from .arrays import rgb, to_array

try:
    from isal import isal_zlib as deflate
except ImportError:
    import zlib as deflate  # type: ignore[no-redef]  # the same functions, only slower

log = logging.getLogger(__name__)

# SwanLab drops images and videos beyond this size without a word to the caller.
_MAX_SWANLAB_BYTES = 10 * 2**20


def safe_log_image(
    pl_logger: Any,
    key: str,
    image: Any,
    step: Optional[int] = None,
    *,
    caption: Any = None,
) -> bool:
    """Log an image and never raise.

    Args:
        pl_logger: SwanLab's, W&B's or TensorBoard's Lightning logger, anything else with a
            ``log_image(key, images, step)`` of theirs, a list of loggers, or None.
        key: Name on the dashboard, e.g. ``train/composites``.
        image: One image or a list: [h, w, 3] uint8; also [3, h, w], grey [h, w], bool, and floats
            in [0, 1], as arrays or tensors. Left as it is.
        step: Step on the dashboard.
        caption: One text, or a list with one per image.

    Returns:
        True when at least one logger took the image; False, with one warning in the log where
        something failed, otherwise.
    """
    try:
        logged, error = _log_to_each(pl_logger, key, image, step, caption)
    except Exception as refused:
        logged, error = False, refused
    if error is not None:
        log.warning("logging the image %r failed", key, exc_info=error)
    return logged


def log_images(
    pl_logger: Any,
    key: str,
    image: Any,
    step: Optional[int] = None,
    caption: Any = None,
    *,
    num_slots: Optional[int] = None,
) -> bool:
    """Do what `safe_log_image` does and raise what goes wrong.

    Of a list of loggers every one is tried; the first error is raised after the last. A logger that
    takes no lists (TensorBoard's) gets each image under a key of its own, ``<key>/<index>``, where
    `num_slots`, the most images that this key ever has, is not 1: so an image's key does not depend
    on how many came with it. None: as many as there are.
    """
    logged, error = _log_to_each(pl_logger, key, image, step, caption, num_slots)
    if error is not None:
        raise error
    return logged


def _log_to_each(
    pl_logger: Any,
    key: str,
    image: Any,
    step: Optional[int],
    caption: Any,
    num_slots: Optional[int] = None,
) -> tuple[bool, Optional[Exception]]:
    """Return whether a logger took the image, and the first error of one that did not."""
    images = [_as_image(item) for item in (image if isinstance(image, (list, tuple)) else [image])]
    if not images:
        raise ValueError("image must hold at least one image, got an empty list")
    captions = caption if isinstance(caption, (list, tuple)) else [caption] * len(images)
    captions = ["" if text is None else str(text) for text in captions]
    if len(captions) != len(images):
        raise ValueError(
            f"caption must have one text per image ({len(images)}), got {len(captions)}"
        )
    if step is not None:
        step = int(step)
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
    pictures = Pictures(key, images, step, captions, num_slots or len(images))
    loggers = pl_logger if isinstance(pl_logger, (list, tuple)) else [pl_logger]
    logged, first_error = False, None
    for logger in loggers:
        try:
            logged |= _log_to(logger, pictures)
        except Exception as error:
            first_error = first_error or error
    return logged, first_error


def log_gif(
    pl_logger: Any, key: str, frames: Sequence[np.ndarray], step: int, caption: str = ""
) -> bool:
    """Log frames [h, w, 3] uint8 as a GIF to every logger that `takes_gifs`.

    Returns:
        True when a logger took it; False when there is none, or the GIF is larger than it takes.
    """
    loggers = pl_logger if isinstance(pl_logger, (list, tuple)) else [pl_logger]
    loggers = [logger for logger in loggers if takes_gifs(logger)]
    if not loggers:
        return False
    buffer = io.BytesIO()
    first, *rest = [Image.fromarray(frame).quantize(128) for frame in frames]
    first.save(buffer, "gif", save_all=True, append_images=rest, duration=250, loop=0)
    if len(buffer.getvalue()) > _MAX_SWANLAB_BYTES:
        return False
    for logger in loggers:
        _SwanLab(logger).log_gif(key, buffer.getvalue(), int(step), caption)
    return True


def log_page(logger: Any, key: str, path: Path) -> bool:
    """Log an HTML file to W&B, or to SwanLab's server: SwanLab's local dashboard shows none.

    Returns:
        False where the logger takes none, or none so large.
    """
    if any(kind.__name__ == "WandbLogger" for kind in type(logger).__mro__):
        import wandb

        logger.experiment.log({key: wandb.Html(str(path), inject=False)})
        return True
    if not _is_swanlab(logger) or getattr(logger, "mode", None) != "online":
        return False
    if path.stat().st_size > _MAX_SWANLAB_BYTES:
        return False
    import swanlab

    logger.experiment.log({key: swanlab.Html(str(path))})
    return True


def log_text(logger: Any, key: str, text: str, step: int) -> bool:
    """Log a text to SwanLab, W&B (a table with one row per line) or TensorBoard.

    Returns:
        False where the logger takes none.
    """
    if _is_swanlab(logger) and hasattr(logger, "log_text"):
        logger.log_text(key, [text], step=step)
    elif any(kind.__name__ == "WandbLogger" for kind in type(logger).__mro__):
        logger.log_text(key, columns=[key], data=[[line] for line in text.splitlines()], step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_text"):
        logger.experiment.add_text(key, text, step)
    else:
        return False
    return True


def takes_gifs(logger: Any) -> bool:
    """Return whether `log_gif` has a way to this logger: SwanLab's alone takes encoded bytes."""
    return _is_swanlab(logger)


def goes_nowhere(logger: Any) -> bool:
    """Return whether this is Lightning's stand-in for a logger while its Tuner tries things out."""
    kind = type(logger)
    return kind.__name__ == "DummyLogger" and "lightning" in kind.__module__.split(".")[0]


@dataclass(frozen=True)
class Pictures:
    """Images for one key and step.

    Attributes:
        key: Name on the dashboard.
        images: [h, w, 3] uint8 each.
        step: Step on the dashboard.
        captions: One per image.
        num_slots: The most images that the key ever has.
    """

    key: str
    images: list[np.ndarray]
    step: Optional[int]
    captions: list[str]
    num_slots: int


class PictureTaker(Protocol):
    """A way to a logger that takes pictures: one small class for each kind of logger."""

    def log(self, pictures: Pictures) -> None:
        """Log images under one key, each with its caption."""


def _log_to(logger: Any, pictures: Pictures) -> bool:
    taker = _taker(logger)
    if taker is not None:
        taker.log(pictures)
    return taker is not None


def _taker(logger: Any) -> Optional[PictureTaker]:
    if hasattr(logger, "log_image"):
        return _SwanLab(logger) if _is_swanlab(logger) else _WandbLike(logger)
    experiment = getattr(logger, "experiment", None)
    return _TensorBoardLike(experiment) if hasattr(experiment, "add_image") else None


@dataclass
class _WandbLike:
    """A logger with ``log_image(key, images, ...)``, as W&B's has it."""

    logger: Any

    def log(self, pictures: Pictures) -> None:
        offered = {"step": pictures.step, "caption": pictures.captions}
        accepted = _accepted(self.logger.log_image, offered)
        self.logger.log_image(pictures.key, pictures.images, **accepted)


@dataclass
class _SwanLab:
    """SwanLab's logger, which also takes GIFs."""

    logger: Any

    def log(self, pictures: Pictures) -> None:
        pairs = zip(pictures.images, pictures.captions, strict=True)
        encoded = [_as_swanlab_image(image, caption) for image, caption in pairs]
        _WandbLike(self.logger).log(dataclasses.replace(pictures, images=encoded))

    def log_gif(self, key: str, gif: bytes, step: int, caption: str) -> None:
        import swanlab

        video = swanlab.Video(gif, caption=caption)
        self.logger.experiment.log({key: video}, step=step)


@dataclass
class _TensorBoardLike:
    """An experiment with ``add_image``, as TensorBoard's has it: no captions, no lists."""

    experiment: Any

    def log(self, pictures: Pictures) -> None:
        for index, image in enumerate(pictures.images):
            name = pictures.key if pictures.num_slots == 1 else f"{pictures.key}/{index}"
            self.experiment.add_image(name, image, pictures.step, dataformats="HWC")


def _is_swanlab(logger: Any) -> bool:
    return any(kind.__module__.split(".")[0] == "swanlab" for kind in type(logger).__mro__)


def _accepted(function: Any, offered: dict[str, Any]) -> dict[str, Any]:
    """Keep the keywords that a logger's method knows: older versions know fewer."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return offered
    return {name: value for name, value in offered.items() if name in parameters}


def _as_swanlab_image(image: np.ndarray, caption: str) -> Any:
    """Hand SwanLab a finished PNG: its own encoding takes over ten times as long."""
    import swanlab

    wrapped = swanlab.Image(np.zeros((1, 1, 3), np.uint8), caption=caption)
    if not isinstance(getattr(wrapped, "buffer", None), io.BytesIO):
        return swanlab.Image(image, caption=caption)
    wrapped.buffer = io.BytesIO(encode_png(image))
    if len(wrapped.buffer.getvalue()) > _MAX_SWANLAB_BYTES:
        return swanlab.Image(image, caption=caption, file_type="jpg")
    return wrapped


def encode_png(image: np.ndarray) -> bytes:
    """Encode [h, w, 3] uint8 as PNG (ISO/IEC 15948), without loss.

    The rows' filter is always "sub": looking for the best one takes longer than all the rest.
    """
    height, width = image.shape[:2]
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 1  # "sub": each pixel minus the one to its left
    rows[:, 1:4] = image[:, 0]
    np.subtract(image[:, 1:], image[:, :-1], out=rows[:, 4:].reshape(height, width - 1, 3))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", deflate.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", deflate.crc32(name + data))
        for name, data in chunks
    )


def _as_image(image: Any) -> np.ndarray:
    """Return [h, w, 3] uint8, contiguous, in memory of its own."""
    image = to_array(image, "image")
    if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3):
        image = image.transpose(1, 2, 0)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise ValueError(f"image must have shape [h, w, 3], got {list(image.shape)}")
    return rgb(image)
