"""Memory that runs out: how to recognise it, what would save some, and skipping a batch."""

import contextlib
import errno
import gc
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch import nn

from .checks import UserError
from .config import Config, DataConfig, clip_length, least_frames, sections_of

log = logging.getLogger(__name__)

# How allocators other than CUDA's say it: PyTorch's on a CPU and on MPS, cuBLAS and OpenCV.
_SAID = re.compile(
    r"not enough memory|(can't|cannot) allocate memory|out of memory|insufficient memory|bad_alloc"
    r"|STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_LOST_RANK = re.compile(r"connection (closed|reset)|broken pipe|remote process", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a device or in the process."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, (RuntimeError, cv2.error)) and bool(_SAID.search(str(error)))


def is_lost_rank(error: BaseException) -> bool:
    """Return whether an error says that another rank has ended."""
    return isinstance(error, RuntimeError) and bool(_LOST_RANK.search(str(error)))


@dataclass(frozen=True)
class Change:
    """A change of settings that saves memory.

    Attributes:
        overrides: As they are typed.
        saves: The share of what training takes beside the weights, about.
        costs: What it costs.
    """

    overrides: str
    saves: float
    costs: str


def changes_of(config: Config, validating: bool = False, resumes: bool = False) -> list[Change]:
    """Return what would save memory, the cheapest first.

    The shares are about what the released models were measured to need at 256 to 1024 px; clips,
    frames and sides of images count as they enter the sizes of the tensors.

    Args:
        config: The settings that did not fit.
        validating: Memory ran out in a validation.
        resumes: There is a checkpoint, which the changes must be able to resume.
    """
    if validating:
        return [*_smaller_batch(config, "val_"), *_precision(config), *_clips(config, "val_")]
    return [
        *_smaller_batch(config),
        *_checkpointing(config),
        *_precision(config),
        *([] if resumes else _fewer_weights(config)),
        *_clips(config),
    ]


def _largest_data_set(config: Config, stage: str) -> tuple[str, DataConfig]:
    """Return the data set with the most frames in a batch, and what its overrides begin with."""

    def frames_of_batch(named: tuple[str, DataConfig]) -> int:
        data = named[1]
        return clip_length(data, not stage) * (data.val_batch_size if stage else data.batch_size)

    prefix, data = max(sections_of(config.data), key=frames_of_batch)
    # brackets would have to be quoted in some shells
    return prefix.replace("[", ".").replace("]", ""), data


def _smaller_batch(config: Config, stage: str = "") -> list[Change]:
    prefix, data = _largest_data_set(config, stage)
    size = data.val_batch_size if stage else data.batch_size
    if size == 1:
        return []
    half = -(-size // 2)
    overrides, costs = f"{prefix}{stage}batch_size={half}", "the same results"
    if not stage:
        windows = config.trainer.accumulate_grad_batches * 2
        overrides += f" trainer.accumulate_grad_batches={windows}"
        costs = "as many clips per step as now" if size % 2 == 0 else "nearly the same steps"
    return [Change(overrides, 1 - half / size, costs)]


def _checkpointing(config: Config) -> list[Change]:
    name, chosen = "model.activation_checkpointing", config.model.activation_checkpointing
    costs = "slower steps, the same gradients"
    if chosen == "none" and _trains_image_encoder(config):
        return [Change(f"{name}=image_encoder", 0.4, costs)]
    return [] if chosen == "all" else [Change(f"{name}=all", 0.25, costs)]


def _precision(config: Config) -> list[Change]:
    if not config.trainer.precision.startswith("32"):
        return []
    return [Change("trainer.precision=bf16-mixed", 0.4, "rounded activations")]


def _fewer_weights(config: Config) -> list[Change]:
    if not _trains_image_encoder(config) or config.model.lora.rank is not None:
        return []
    costs = "the image encoder stays as it is"
    return [Change("model.trainable_modules=all_but_image_encoder", 0.45, costs)]


def _clips(config: Config, stage: str = "") -> list[Change]:
    prefix, data = _largest_data_set(config, stage)
    frames = clip_length(data, not stage)
    least = 2 if stage else max(2, *least_frames(config.model).values())
    fewer = max(least, frames * 3 // 4)
    if fewer >= frames:
        return _smaller_frames(config)
    overrides = f"{prefix}{stage}num_frames={fewer}"
    return [Change(overrides, 1 - fewer / frames, "shorter clips"), *_smaller_frames(config)]


def _smaller_frames(config: Config) -> list[Change]:
    side = config.model.image_size
    smaller = max(64, side * 3 // 4 // 32 * 32)
    if smaller >= side:
        return []
    return [Change(f"model.image_size={smaller}", 1 - (smaller / side) ** 2, "coarser masks")]


def _trains_image_encoder(config: Config) -> bool:
    names = config.model.trainable_modules
    if names is None:
        names = ["all"] if config.model.lora.rank is None else config.model.lora.modules
    return any(name == "all" or name.startswith("image_encoder") for name in names)


@contextlib.contextmanager
def memory_for_tracking(config: Config) -> Iterator[None]:
    """Run what tracks videos; where memory runs out, say what saves some.

    Args:
        config: The settings; `config.model` is that of the weights.

    Raises:
        UserError: Memory ran out. Its traceback holds what was computed: `free_memory` helps only
            after the ``except``.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        changes = [*_precision(config), *_smaller_frames(config)]
        listed = " or ".join(f"{change.overrides} ({change.costs})" for change in changes)
        raise UserError(f"out of memory, try {listed}" if listed else "out of memory") from error


def free_memory() -> None:
    """Give back what nothing refers to any more, which PyTorch and Python keep for themselves."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class BatchSkipper:
    """Leaves out batches for which memory does not suffice, with the rest of their step.

    Args:
        model: Whose gradients are cleared.
        most: As many in a row may be skipped; the next one ends the run.

    Attributes:
        total: How many were skipped.
    """

    def __init__(self, model: nn.Module, most: int) -> None:
        self.total = 0
        self._model, self._most = model, most
        self._in_a_row, self._fails = 0, False

    def try_out(self, function: Callable[[], Any]) -> Any:
        """Return what a part of a step returns; None where memory ran out in this step.

        Raises:
            Exception: What the function raised, where it is another error or too many failed.
        """
        if self._fails:
            return None
        try:
            return function()
        except Exception as error:
            if not is_out_of_memory(error) or self._in_a_row >= self._most:
                raise
        # Not above: the error's traceback holds the tensors of the step.
        self._fails = True
        self.total += 1
        self._in_a_row += 1
        log.warning("a batch ran out of memory and was skipped (%d so far)", self.total)
        self._model.zero_grad()
        free_memory()
        return None

    def end_step(self) -> bool:
        """Return whether the step that ends here is to be taken: none of its batches failed."""
        taken, self._fails = not self._fails, False
        if taken:
            self._in_a_row = 0
        else:
            self._model.zero_grad()
        return taken
