"""The mixin that takes pictures in anybody's LightningModule."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Optional, Protocol

from ..config import VisualizationsConfig
from .visualizer import Trainer, Visualizer

log = logging.getLogger(__name__)

# Where a module keeps its visualizer, and what was said before there could be one. These are the
# names that Python gives to private attributes of the mixin, so that no host has them already.
_MADE = "_VisualizationsMixin__visualizer"
_SAID = "_VisualizationsMixin__said"


class Host(Protocol):
    """What is asked of a class that has the mixin."""

    @property
    def config(self) -> Any:
        """An object with ``visualizations``, and with ``data.num_categories`` where known."""

    @property
    def trainer(self) -> Trainer:
        """Lightning's trainer, or something like it."""


class VisualizationsMixin:
    """Adds `maybe_log_visualizations` to any LightningModule with ``self.config.visualizations``.

    Call it at the end of ``training_step`` and ``validation_step``::

        class MyModule(VisualizationsMixin, LightningModule):
            def training_step(self, batch, batch_idx):
                outs = self.model(batch)
                self.maybe_log_visualizations(batch, outs, batch_idx, "train")
                return self.loss(outs, batch.masks)

    ``self.config`` may be any object; ``visualizations`` a `VisualizationsConfig`, a mapping or any
    object with some of its fields. No hook of the mixin needs to be called, and none is overridden.
    Names for header and legend come from the trainer's datamodule when it has ``clip_name(stage,
    id)``, ``object_names(stage, id)`` or ``category_names``.
    """

    def maybe_log_visualizations(
        self: Host,
        batch: Any,
        outs_per_frame: Sequence[dict[str, Any]],
        batch_idx: int,
        stage: str,
        *,
        obj_to_cat: Optional[Sequence[int]] = None,
    ) -> None:
        """Have the batch's first clips drawn and logged in the background, when that is due.

        Returns at once when disabled, not on rank zero, during the sanity check, or not due
        (`Cadence.due`: in training every `every_n_steps` optimizer steps, in validation the first
        batch, every `every_n_steps` batches after it, and pinned clips). Reads the tensors, keeps
        none of them, and never raises an Exception, whatever it is given. With several devices the
        pictures are of rank zero's share of the data.

        Args:
            batch: ``BatchedVideoDatapoint`` in either layout.
            outs_per_frame: What ``SAM2Train`` returned, or the category layout's merged outputs.
            batch_idx: As given to the step.
            stage: ``train`` or ``val``.
            obj_to_cat: Where prompt rows are components of categories: the mask row (b * N + c) of
                each prompt row.
        """
        try:
            if not _is_enabled(self.config.visualizations):
                return
            trainer = self.trainer
            if not trainer.is_global_zero or trainer.sanity_checking:
                return
            visualizer = _make_visualizer_once(self)
            event = visualizer.cadence.due(stage, trainer.global_step, batch_idx)
            if event is None:
                return
            visualizer.attach(trainer)  # has pictures flushed when the trainer ends
            visualizer.take(
                event,
                trainer.loggers,
                batch,
                outs_per_frame,
                epoch=trainer.current_epoch,
                obj_to_cat=obj_to_cat,
                **names_of(getattr(trainer, "datamodule", None), stage),
            )
        except Exception as error:
            _failed(self, error)


def visualizer_of(module: Any) -> Optional[Visualizer]:
    """Return what draws the events of a module that has the mixin.

    Returns:
        None as long as the hook had nothing to decide: before the module's first step, while
        pictures are off, and on ranks other than zero.
    """
    return vars(module).get(_MADE)


def _make_visualizer_once(module: Host) -> Visualizer:
    visualizer = visualizer_of(module)
    if visualizer is None:
        data = getattr(module.config, "data", None)
        visualizer = Visualizer(
            _as_config(module.config.visualizations), getattr(data, "num_categories", None)
        )
        # Around nn.Module.__setattr__: this is no part of the module's state.
        vars(module)[_MADE] = visualizer
    return visualizer


def _is_enabled(section: Any) -> bool:
    return bool(section.get("enabled") if hasattr(section, "get") else section.enabled)


def _failed(module: Host, error: Exception) -> None:
    """Count a failure before the snapshot; without a usable configuration it is only said."""
    visualizer = visualizer_of(module)
    if visualizer is not None:
        visualizer.troubles.failed("deciding whether to draw", error)
        return
    said = vars(module).setdefault(_SAID, set())
    if type(error) not in said:
        said.add(type(error))
        log.warning("visualizations: no pictures, training goes on", exc_info=error)


def _as_config(section: Any) -> VisualizationsConfig:
    if isinstance(section, VisualizationsConfig):
        return section
    names = [field.name for field in dataclasses.fields(VisualizationsConfig)]
    if hasattr(section, "get"):
        unknown = sorted(set(section) - set(names))
        if unknown:
            raise ValueError(f"visualizations.{unknown[0]} is no setting, expected {names}")
        return VisualizationsConfig(**section)
    return VisualizationsConfig(
        **{name: getattr(section, name) for name in names if hasattr(section, name)}
    )


def names_of(datamodule: Any, stage: str) -> dict[str, Any]:
    """Return the names that a datamodule knows of its clips, objects and categories."""
    names: dict[str, Any] = {"category_names": getattr(datamodule, "category_names", None)}
    for name in ("clip_name", "object_names"):
        lookup = getattr(datamodule, name, None)
        if lookup is not None:
            names[name] = lambda video_id, lookup=lookup: lookup(stage, video_id)
    return names
