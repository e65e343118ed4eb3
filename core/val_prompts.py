"""Validation under several prompt types: which, when, and IoU under each."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from . import random_states
from .config import MIXED_PROMPTS, Config
from .metrics.video import VideoMetrics
from .model.build import prompted_with
from .random_states import RandomStates

# Of `mixed` training, where nothing is set.
_MIXED_EVERY = 4


def val_prompts_of(config: Config) -> list[str]:
    """Return the prompt types of validation; ``val/iou`` is that of the first."""
    if config.trainer.val_prompts is not None:
        return list(config.trainer.val_prompts)
    prompt_type = config.model.prompt_type
    return list(MIXED_PROMPTS) if prompt_type == "mixed" else [prompt_type]


def prompts_of_images(types: Sequence[str]) -> list[str]:
    """Return what a clip of one frame is validated under: clicks or boxes, and the other if asked.

    A mask of an image is the answer itself, so clicks take its place.

    Args:
        types: Those of videos, the first one first.
    """
    kinds = ["bbox" if kind == "bbox" else "point" for kind in types]
    return list(dict.fromkeys(kinds))


def val_prompts_every(config: Config) -> int:
    """Return n: every n-th validation is under all of them."""
    if config.trainer.val_prompts_every is not None:
        return config.trainer.val_prompts_every
    by_default = config.trainer.val_prompts is None and config.model.prompt_type == "mixed"
    return _MIXED_EVERY if by_default else 1


class ValidationPrompts:
    """Measures IoU under further prompt types, and leaves everything else as it is without them.

    Each further type has random states of its own, which begin a validation as those of the first
    type do: its IoU is what a validation under that type alone finds.

    Args:
        config: The whole configuration.

    Attributes:
        first: The type that ``val/iou`` is of.
        further: The others of the validation in work, in order; none where it is under the first
            alone.
        num_validations: Of the run so far, the same on every rank.
    """

    def __init__(self, config: Config) -> None:
        self.first, *self._others = val_prompts_of(config)
        self._every = val_prompts_every(config)
        self.further: list[str] = []
        self.num_validations = 0
        self._metrics: dict[str, VideoMetrics] = {}
        self._states: dict[str, RandomStates] = {}

    @property
    def further_of_images(self) -> list[str]:
        """The further type of clips of one frame, to which a mask is a click: boxes or clicks."""
        others = [kind for kind in self.further if (kind == "bbox") != (self.first == "bbox")]
        return others[:1]

    def begin(self, start: RandomStates, *, is_last: bool) -> None:
        """Begin a validation.

        Args:
            start: The random states that it starts from.
            is_last: Training ends with it, as far as is known.
        """
        is_due = is_last or self.num_validations % self._every == 0
        self.further = self._others if is_due else []
        self._metrics = {kind: VideoMetrics(boundary=False) for kind in self.further}
        self._states = dict.fromkeys(self.further, start)

    @contextlib.contextmanager
    def under(self, kind: str, model: Any, device: torch.device) -> Iterator[None]:
        """Have a model in evaluation prompted with a type, for one batch.

        Args:
            kind: The first type, or one of the further ones.
            model: ``SAM2Train``.
            device: What the training runs on.
        """
        with prompted_with(model, kind):
            if kind == self.first:
                yield
                return
            before = random_states.capture(device, model.rng)
            random_states.restore(self._states[kind], device, model.rng)
            try:
                yield
            finally:
                self._states[kind] = random_states.capture(device, model.rng)
                random_states.restore(before, device, model.rng)

    def update(self, kind: str, *measured: Any) -> None:
        """Add a batch under a further type; see `VideoMetrics.update`."""
        self._metrics[kind].update(*measured)

    def compute(self, first_iou: float) -> dict[str, float]:
        """Return ``iou@TYPE`` of all types over all ranks: a collective for each further one.

        Nothing where there is nothing to track: images have ``iou@1click`` and its kin.

        Args:
            first_iou: That of the first type.
        """
        found = {kind: metrics.compute().get("iou") for kind, metrics in self._metrics.items()}
        self._metrics = {}
        ious = {f"iou@{kind}": iou for kind, iou in found.items() if iou is not None}
        return {f"iou@{self.first}": first_iou, **ious} if ious else {}
