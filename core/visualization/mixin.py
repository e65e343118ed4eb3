"""The mixin that takes pictures in anybody's LightningModule."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Optional

from ..config import VisualizationsConfig
from .visualizer import Visualizer

log = logging.getLogger(__name__)


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
        self,
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
            if not _enabled(self):
                return
            trainer = self.trainer
            if not trainer.is_global_zero or trainer.sanity_checking:
                return
            visualizer = _visualizer(self)
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


def _enabled(module: Any) -> bool:
    section = module.config.visualizations
    return bool(section.get("enabled") if hasattr(section, "get") else section.enabled)


def _visualizer(module: Any) -> Visualizer:
    """Return the module's visualizer, made by its first step on rank zero."""
    if "_visualizer" not in module.__dict__:
        data = getattr(module.config, "data", None)
        # Around nn.Module.__setattr__: this is no part of the module's state.
        module.__dict__["_visualizer"] = Visualizer(
            _as_config(module.config.visualizations), getattr(data, "num_categories", None)
        )
    return module.__dict__["_visualizer"]


def _failed(module: Any, error: Exception) -> None:
    """Count a failure before the snapshot; without a usable configuration it is only said."""
    visualizer = module.__dict__.get("_visualizer")
    if visualizer is not None:
        visualizer.failed("deciding whether to draw", error)
        return
    said = module.__dict__.setdefault("_visualizations_said", set())
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
