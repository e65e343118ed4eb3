"""The mixin that takes pictures in anybody's LightningModule."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional, Protocol

import torch
from torch.compiler import is_dynamo_compiling

from ..config import VisualizationsConfig
from ..metrics.doctor import Doctor
from ..official import FrameOutputs
from .clip import Moment
from .hosts import own_of
from .limits import VisualizationsError
from .visualizer import Trainer, Visualizer

log = logging.getLogger(__name__)

# Where a module keeps its visualizer, and what was said before there could be one. These are the
# names that Python gives to private attributes of the mixin, so that no host has them already.
_MADE = "_VisualizationsMixin__visualizer"
_SAID = "_VisualizationsMixin__said"

_NO_SETTINGS = (
    "visualizations: no pictures are taken: neither self.config.visualizations nor "
    "self.hparams.visualizations nor self.visualizations holds settings; set one of them, for "
    "example visualizations = VisualizationsConfig(enabled=True) in the class"
)


class Host(Protocol):
    """What is asked of a class that has the mixin."""

    @property
    def trainer(self) -> Trainer:
        """Lightning's trainer, or something like it."""


class VisualizationsMixin:
    """Adds `maybe_log_visualizations` to any LightningModule.

    Call it at the end of ``training_step`` and ``validation_step``::

        class MyModule(VisualizationsMixin, LightningModule):
            visualizations = VisualizationsConfig(enabled=True)

            def training_step(self, batch, batch_idx):
                outs = self.model(batch)
                self.maybe_log_visualizations(batch, outs, batch_idx, "train")
                return self.loss(outs, batch.masks)

    The settings are the first of ``self.config.visualizations``,
    ``self.hparams.visualizations`` and ``self.visualizations`` that is a `VisualizationsConfig`, a
    mapping with some of its fields (a dict, OmegaConf's DictConfig) or an object with ``enabled``
    and more of them. ``config`` and ``hparams`` may be mappings or any objects. What they hold when
    the hook meets a trainer is used with that trainer. No hook of the mixin needs to be called, and
    none is overridden.

    Names for header and legend come from the hook's keywords, or from the trainer's datamodule when
    it has ``clip_name(stage, id)``, ``object_names(stage, id)`` or ``category_names``. Where
    batches go to a device, ``original_sizes`` of the datamodule or the module says what
    `core.official.original_sizes_of` told of the batch in work before it went there. A module
    with averaged weights may say in ``self.weights_in_use``, a text or None, which ones it has:
    the header repeats it. With ``worst_by`` other than ``iou`` the module sets
    ``self.failure_shares`` before it calls the hook: of each of the batch's B videos, the share of
    frames that failed so.
    """

    def maybe_log_visualizations(
        self: Host,
        batch: Any,
        outs_per_frame: Sequence[FrameOutputs],
        batch_idx: int,
        stage: str,
        *,
        obj_to_cat: Optional[Sequence[int]] = None,
        clip_name: Optional[Callable[[int], str]] = None,
        object_names: Optional[Callable[[int], Optional[dict[int, str]]]] = None,
        category_names: Optional[Sequence[str]] = None,
    ) -> None:
        """Have the batch's first clips drawn and logged in the background, when that is due.

        Returns at once when disabled, not on rank zero, during the sanity check, or not due
        (`Cadence.due`: in training every `every_n_steps` optimizer steps, in validation the first
        batch, every `every_n_steps` batches after it, and pinned clips). Reads the tensors, keeps
        none of them, and never raises an Exception, whatever it is given, unless the setting
        ``strict`` asks for it. With several devices the pictures are of rank zero's share of the
        data.

        Args:
            batch: ``BatchedVideoDatapoint`` in either layout.
            outs_per_frame: What ``SAM2Train`` returned, or the category layout's merged outputs.
            batch_idx: As given to the step.
            stage: ``train``, ``val``, or another name, such as ``test``, for what is drawn as
                validation is. It begins the keys on the dashboard: ``<stage>/composites``.
            obj_to_cat: Where prompt rows are components of categories: the mask row (b * N + c) of
                each prompt row.
            clip_name: Gives a video's name by its id, the first number of
                ``unique_objects_identifier``. Called later, in the background: it should not hold
                the batch.
            object_names: Gives the names of a video's objects, by object id, by the video's id;
                called later as well.
            category_names: Names of the slots of the category layout. Names given here go before
                those of the datamodule.

        Raises:
            VisualizationsError: With the setting ``strict``: what would have been a warning, here
                or on the drawing thread since the call before.
        """
        if is_dynamo_compiling():  # the whole module: torch.compile(module)
            _outside_graphs(
                self,
                batch,
                outs_per_frame,
                batch_idx,
                stage,
                obj_to_cat=obj_to_cat,
                clip_name=clip_name,
                object_names=object_names,
                category_names=category_names,
            )
            return
        try:
            section = _section(self)
            if not _may_draw(self, section):
                return
            trainer = self.trainer
            if section is None:
                _say_once(self, "no settings", _NO_SETTINGS)
                return
            visualizer = _visualizer_for(self, section, trainer)
            event = visualizer.due(trainer, stage, batch_idx)
            if event is None:
                return
            given = {
                "clip_name": clip_name,
                "object_names": object_names,
                "category_names": category_names,
            }
            doctor = own_of(self, "doctor", Doctor) if stage == "val" else None
            remark = doctor.in_short() if doctor else ""
            visualizer.take(
                event,
                trainer.loggers,
                batch,
                outs_per_frame,
                _moment(self, stage, event.step, given, remark),
                obj_to_cat,
                getattr(self, "failure_shares", None),
                # The doctor speaks when the validation is over.
                holds_pinned=doctor is not None,
            )
        except VisualizationsError:
            raise
        except Exception as error:
            _failed(self, error)


# What the graph of a compiled module calls. As a decorator, `disable` takes longer at every call
# than the hook itself does when no picture is due.
_outside_graphs = torch.compiler.disable(
    VisualizationsMixin.maybe_log_visualizations, reason="it takes pictures"
)


@torch.compiler.disable(reason="it takes pictures")
def maybe_log_prompts(
    module: Host,
    batch: Any,
    outs_per_frame: Sequence[FrameOutputs],
    batch_idx: int,
    prompt_type: str,
) -> None:
    """Have a validation's first clip drawn under several prompt types, one beside the other.

    Call it behind the module's `maybe_log_visualizations`, once for each type under which a batch
    is tracked. The sheet, ``val/prompts``, has columns for each type in the order of the calls; it
    is drawn when the validation ends. Returns at once for all batches but the first, without pinned
    clips, and where that hook does.

    Args:
        module: That has the mixin.
        batch: As given to the hook.
        outs_per_frame: What ``SAM2Train`` returned under this type.
        batch_idx: As given to the step.
        prompt_type: What the columns are called, such as ``bbox``.

    Raises:
        VisualizationsError: With the setting ``strict``: what would have been a warning.
    """
    try:
        if not _may_draw(module, _section(module)):
            return
        visualizer, trainer = visualizer_of(module), module.trainer
        if visualizer is None or not visualizer.compares_prompts(trainer, batch_idx):
            return
        moment = _moment(module, "val", trainer.global_step, {})
        visualizer.take_prompts(prompt_type, trainer.loggers, batch, outs_per_frame, moment)
    except VisualizationsError:
        raise
    except Exception as error:
        _failed(module, error)


def visualizer_of(module: Any) -> Optional[Visualizer]:
    """Return what draws the events of a module that has the mixin.

    Returns:
        None as long as the hook had nothing to decide: before the module's first step, while
        pictures are off, and on ranks other than zero.
    """
    return vars(module).get(_MADE)


def _may_draw(module: Host, section: Any) -> bool:
    """Return whether anything may be drawn here and now, so far as no batch is asked."""
    if section is not None and not _is_enabled(section):
        return False
    trainer = module.trainer
    return trainer.is_global_zero and not trainer.sanity_checking


def _moment(
    module: Host, stage: str, step: int, given: Mapping[str, Any], remark: str = ""
) -> Moment:
    """Return what a sheet says of its time and names; names given go before the datamodule's."""
    trainer = module.trainer
    names = names_of(getattr(trainer, "datamodule", None), stage)
    names.update({name: value for name, value in given.items() if value is not None})
    weights = _entry(module, "weights_in_use")
    names["original_sizes"] = names.get("original_sizes") or _entry(module, "original_sizes")
    names["weights"] = weights if isinstance(weights, str) else None
    return Moment(stage, step, trainer.current_epoch, **names, remark=remark)


def _section(module: Any) -> Any:
    """Return the settings of the pictures from the first place that has some, or None."""
    found = getattr(getattr(module, "config", None), "visualizations", None)
    if type(found) is VisualizationsConfig:  # asked at every step: what most modules have ends it
        return found
    for place in ("config", "hparams", None):
        holder = module if place is None else _entry(module, place)
        section = _entry(holder, "visualizations")
        # A host may have something of its own by this name.
        if hasattr(section, "enabled") or isinstance(section, Mapping):
            return section
    return None


def _num_categories(module: Any) -> Optional[int]:
    """Return ``data.num_categories`` of the module's settings, where they have it."""
    for name in ("config", "hparams"):
        found = _entry(_entry(_entry(module, name), "data"), "num_categories")
        if found is not None:
            return found
    return None


def _entry(holder: Any, name: str) -> Any:
    """Return an entry of a mapping or an attribute of anything else, or None."""
    found = None if isinstance(holder, dict) else getattr(holder, name, None)
    # The hook asks at every step, and whether something is a mapping is slow to tell.
    return holder.get(name) if found is None and isinstance(holder, Mapping) else found


def _visualizer_for(module: Host, section: Any, trainer: Trainer) -> Visualizer:
    """Return what draws for a trainer, for one that is new with the settings as they are now."""
    visualizer = visualizer_of(module)
    if visualizer is not None and not visualizer.is_new(trainer):
        return visualizer
    try:
        config = _as_config(section)
    except Exception as error:
        if _entry(section, "strict") is True:
            raise VisualizationsError(f"{error} (visualizations.strict=true)") from error
        raise
    if visualizer is None:
        # Around nn.Module.__setattr__: this is no part of the module's state.
        visualizer = vars(module)[_MADE] = Visualizer(config, _num_categories(module))
    else:
        visualizer.go_on_with(config, _num_categories(module))
    return visualizer


def _is_enabled(section: Any) -> bool:
    if type(section) is VisualizationsConfig:
        return section.enabled
    return bool(_entry(section, "enabled"))


def _failed(module: Host, error: Exception) -> None:
    """Count a failure before the snapshot; without a usable configuration it is only said."""
    visualizer = visualizer_of(module)
    if visualizer is not None:
        visualizer.troubles.failed("deciding whether to draw", error)
        return
    _say_once(
        module,
        type(error).__name__,
        "visualizations: pictures cannot be set up; training continues without them",
        error,
    )


def _say_once(module: Host, kind: str, message: str, error: Optional[Exception] = None) -> None:
    """Warn while there is no visualizer that could, once per kind and module."""
    said = vars(module).setdefault(_SAID, set())
    if kind not in said:
        said.add(kind)
        log.warning(message, exc_info=error)


def _as_config(section: Any) -> VisualizationsConfig:
    """Return checked settings that nobody else can change."""
    if isinstance(section, VisualizationsConfig):
        return dataclasses.replace(section)
    names = [field.name for field in dataclasses.fields(VisualizationsConfig)]
    if isinstance(section, Mapping):
        unknown = sorted(set(section) - set(names))
        if unknown:
            raise ValueError(
                f"unknown setting visualizations.{unknown[0]}; choose one of {', '.join(names)}"
            )
        return VisualizationsConfig(**section)
    return VisualizationsConfig(
        **{name: getattr(section, name) for name in names if hasattr(section, name)}
    )


def names_of(datamodule: Any, stage: str) -> dict[str, Any]:
    """Return what a datamodule knows of its clips, objects, categories and the batch in work."""
    names: dict[str, Any] = {
        name: getattr(datamodule, name, None) for name in ("category_names", "original_sizes")
    }
    for name in ("clip_name", "object_names"):
        lookup = getattr(datamodule, name, None)
        if lookup is not None:
            names[name] = lambda video_id, lookup=lookup: lookup(stage, video_id)
    return names
