"""The Lightning side: the mixin that takes pictures, and the module that trains SAM 2."""

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from . import random_states
from .config import Config, config_of
from .metrics.doctor import (
    Baseline,
    Case,
    Doctor,
    Validation,
    areas_of,
    first_ious_of,
    frames_of,
    prompted_ious_of,
)
from .metrics.masks import copied_masks, mean_iou
from .metrics.outcomes import (
    Findings,
    Told,
    Track,
    failure_scalars,
    frames_csv,
    iou_by_distance,
    scored_tracks,
    shares,
    strips_of,
)
from .metrics.rounds import RoundMetrics, name_of_round
from .metrics.video import LossMean, VideoMetrics, as_csv, category_keys, mean_ious_by
from .model.build import build_model
from .model.checkpointing import checkpoint_loss
from .model.freezing import freeze, trains_memory
from .model.loading import load_weights
from .model.lora import inject
from .official import (
    FrameOutputs,
    clicks_by_value,
    first_prompt_of,
    received_prompt,
    rounds_of,
    without_ignored,
)
from .optim import build_optimizer, build_scheduler, num_warmup_steps
from .out_of_memory import BatchSkipper
from .random_states import RandomStates
from .val_prompts import ValidationPrompts
from .visualization.arrays import above
from .visualization.mixin import VisualizationsMixin, maybe_log_prompts, names_of

log = logging.getLogger(__name__)

CORE_LOSS = "core_loss"  # the weighted sum, under the key that the official loss gives it


class SAM2LightningModule(VisualizationsMixin, pl.LightningModule):
    """Fine-tunes SAM 2 with its official training forward and loss.

    Logs ``train/loss``, its parts and ``train/iou`` per step, and per validation run ``val/loss``,
    its parts, ``val/iou`` and the other metrics of `VideoMetrics`, and ``val/iou_copy``: what
    leaving the prompted frame's masks in place scores, under several prompt types
    (``trainer.val_prompts``) ``val/iou@<type>`` and with several data sets
    ``val/source/<name>/iou``. ``val/failures/<kind>`` and its kin say how objects fail
    (`core.metrics.outcomes`). Clips of one frame are counted apart, by what their clicks gain:
    ``val/iou@3clicks`` and its kin (`core.metrics.rounds`); where there are no others, ``val/iou``
    and its kin are of their last click. The objects of each validation run are listed in
    ``metrics/val_step<step>.csv`` under the trainer's ``default_root_dir``, their frames in
    ``metrics/val_step<step>_frames.csv``. What is wrong, if anything is, the log says after each
    validation (`core.metrics.doctor`).

    Args:
        config: The whole configuration; stored in the checkpoint's hyperparameters. Lightning's
            ``load_from_checkpoint`` gives it as they hold it, in plain dictionaries: the weights
            that training started from are not read again then, nor where a run is resumed.

    Raises:
        MissingSam2Error: ``sam2`` is not installed.
        CheckpointError: ``model.checkpoint_path`` does not fit.
        UserError: ``model.trainable_modules`` names something that does not exist.
    """

    def __init__(self, config: Union[Config, Mapping[str, Any]]) -> None:
        super().__init__()
        start = config.ckpt_path is None if isinstance(config, Config) else False
        config = config if isinstance(config, Config) else config_of(config)
        self.config = config
        self.save_hyperparameters({"config": dataclasses.asdict(config)})
        self.model = build_model(config.model)
        self.load_report: Optional[str] = None
        if start and config.model.checkpoint_path is not None:
            self.load_report = load_weights(self.model, config.model.checkpoint_path)
        inject(self.model, config.model.lora)
        freeze(self.model, config.model.trainable_modules)
        self.loss = _build_loss(config)
        checkpoint_loss(self.loss, config.model.activation_checkpointing)
        skips = config.trainer.on_out_of_memory == "skip"
        self.skipper = (
            BatchSkipper(self.model, config.trainer.max_skipped_in_a_row) if skips else None
        )
        self.metrics = VideoMetrics()
        self.image_metrics = VideoMetrics()  # of clips of one frame, after their last click
        self.round_metrics = RoundMetrics()
        self.copy_metrics = VideoMetrics(boundary=False)
        self.val_prompts = ValidationPrompts(config)
        self.iou_copy: Optional[float] = None
        self.iou_before: Optional[float] = None
        self.objects_table: Optional[Path] = None  # of the last validation
        self.failure_shares: Optional[list[float]] = None  # what `worst_by` ranks clips by
        self.findings: Optional[Findings] = None  # likewise, on rank zero
        self.doctor = Doctor()
        self.baseline: Optional[Baseline] = None
        self._copied_ious: dict[tuple[int, int], np.ndarray] = {}
        self._train_losses = LossMean()
        self._num_steps = self._num_warmup_steps = 0
        self._table_failed = self._doctor_failed = False
        self.resumed_step: Optional[int] = None
        self.weights_in_use: Optional[str] = None  # for the pictures, where there are two sets
        self._states_to_resume: Optional[RandomStates] = None
        self._states_before_validation: Optional[RandomStates] = None

    def setup(self, stage: str) -> None:
        """Forget what copying scores: the clips may be others now."""
        self.iou_copy = None

    def forward(self, batch: Any) -> list[FrameOutputs]:
        """Track the batch's objects and return one dict of outputs per frame."""
        return self.model(batch)

    def training_step(self, batch: Any, batch_idx: int) -> Optional[Tensor]:
        """Train on one batch of clips; return None for one that is skipped."""
        if self.skipper is None:
            return self._train_on(batch, batch_idx)
        loss = self.skipper.try_out(lambda: self._train_on(batch, batch_idx))
        self.log("train/skipped_batches", torch.tensor(float(self.skipper.total)))
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backpropagate; nothing is left of a batch that is skipped."""
        backward = functools.partial(super().backward, loss, *args, **kwargs)
        if self.skipper is None:
            backward()
        else:
            self.skipper.try_out(backward)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Take a step, unless one of its batches was skipped."""
        if self.skipper is not None:
            loss = optimizer_closure()
            if not self.skipper.end_step():
                return
            optimizer_closure = lambda: loss  # noqa: E731
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def _train_on(self, batch: Any, batch_idx: int) -> Tensor:
        outs_per_frame = self(batch)
        losses = self.loss(*without_ignored(outs_per_frame, batch))
        self._log_losses("train", losses, batch)
        self._train_losses.add(losses[CORE_LOSS])
        self._log_train_iou(outs_per_frame, batch)
        self.maybe_log_visualizations(batch, outs_per_frame, batch_idx, "train")
        return losses[CORE_LOSS]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measure one batch of clips, also under each further prompt type that is due."""
        outs_per_frame = self._prompted(batch, self.val_prompts.first)
        self._log_losses("val", self.loss(*without_ignored(outs_per_frame, batch)), batch)
        self._measure(batch, outs_per_frame, self.val_prompts.first)
        self.failure_shares = self._failure_shares(batch)
        self.maybe_log_visualizations(batch, outs_per_frame, batch_idx, "val")
        further, is_image = self.val_prompts.further, len(outs_per_frame) == 1
        if further and not is_image:
            maybe_log_prompts(self, batch, outs_per_frame, batch_idx, self.val_prompts.first)
        del outs_per_frame  # or two would be in memory at once
        for kind in self.val_prompts.further_of_images if is_image else further:
            self._validate_under(kind, batch, batch_idx)

    def _validate_under(self, kind: str, batch: Any, batch_idx: int) -> None:
        outs_per_frame = self._prompted(batch, kind)
        rounds = rounds_of(outs_per_frame)
        if rounds:
            self._measure_rounds(batch, rounds, kind)
            return
        identifiers = batch.metadata.unique_objects_identifier[0]
        prompted = torch.tensor([received_prompt(outs) for outs in outs_per_frame])
        masks = (_predicted_masks(outs_per_frame), batch.masks)
        self.val_prompts.update(kind, *masks, prompted, identifiers[:, 0], identifiers[:, 1])
        maybe_log_prompts(self, batch, outs_per_frame, batch_idx, kind)

    def _prompted(self, batch: Any, kind: str) -> list[FrameOutputs]:
        with self.val_prompts.under(kind, self.model, self.device), clicks_by_value():
            return self(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole validation set, the same on every rank."""
        names = getattr(self._datamodule(), "category_names", None)
        metrics = self._compute_metrics(names if self._category_layout() else None)
        if "iou" not in metrics:
            rank_zero_warn(
                "val/iou is NaN: no validation clip has both an object on a prompted frame "
                "and an unprompted frame to track it on"
            )
            metrics["iou"] = math.nan  # checkpoints and early stopping look for it
        metrics.update(self.val_prompts.compute(metrics["iou"]))
        metrics.update(self._failures(names))
        metrics.update(self._ious_of_sources())
        for name, value in metrics.items():
            self.log(f"val/{name}", value, prog_bar=name == "iou")
        trainer = self.trainer
        # Lightning's connectors set this and the other attributes that its Trainer does not declare
        if trainer.sanity_checking:
            return
        self.val_prompts.num_validations += 1
        if trainer.global_step == 0:
            self.iou_before = float(metrics["iou"])
        self._log_iou_copy()
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._tell_objects(float(metrics["iou"]))
            self._see_doctor(float(metrics["iou"]))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimizer and its schedule per optimizer step."""
        optimizer = build_optimizer(self.model, self.config.optimizer)
        self._num_steps = int(self.trainer.estimated_stepping_batches)
        scheduler = build_scheduler(optimizer, self.config.scheduler, self._num_steps)
        self._num_warmup_steps = num_warmup_steps(self.config.scheduler, self._num_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store every rank's random states, so that a resumed run is the one interrupted.

        What the run's doctor and run book know of its validations goes with them.
        """
        states = self._states_before_validation or random_states.capture(
            self.device, self.model.rng
        )
        if self.trainer.world_size > 1:
            ranks: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(ranks, states)
        else:
            ranks = [states]
        checkpoint["random_states"] = ranks
        checkpoint["num_validations"] = self.val_prompts.num_validations
        checkpoint["doctor"] = self.doctor.state()
        checkpoint["train_losses"] = self._train_losses.state()
        checkpoint["baseline"] = self.baseline and dataclasses.asdict(self.baseline)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random states until training goes on; know what the run knew."""
        self.resumed_step = checkpoint["global_step"]
        self.val_prompts.num_validations = checkpoint.get("num_validations", 0)
        if "doctor" in checkpoint:
            self.doctor.load(checkpoint["doctor"])
            self._train_losses.load(checkpoint["train_losses"])
        if checkpoint.get("baseline"):
            self.baseline = Baseline.of(checkpoint["baseline"])
            if self.baseline.step == 0:
                self.iou_before = self.baseline.iou
        ranks = checkpoint.get("random_states")
        if ranks:
            self._states_to_resume = ranks[self.global_rank % len(ranks)]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Put back the random states of the checkpoint that was resumed."""
        self.on_validation_end()  # of a validation that was interrupted
        if self._states_to_resume is not None:
            states, self._states_to_resume = self._states_to_resume, None
            random_states.restore(states, self.device, self.model.rng)

    def on_validation_start(self) -> None:
        """Keep the random states, so that training does not depend on when it is validated.

        Validation starts from states of its own, the same each time and on every rank: SAM 2 draws
        the noise of box prompts, and the same weights are to give the same numbers.
        """
        for metrics in (self.metrics, self.image_metrics, self.copy_metrics, self.round_metrics):
            metrics.reset()
        self.findings = self.objects_table = None
        self._states_before_validation = random_states.capture(self.device, self.model.rng)
        start = random_states.seeded(self.config.seed % 2**32, self.device)
        random_states.restore(start, self.device, self.model.rng)
        self.val_prompts.begin(start, is_last=self.trainer.global_step >= self._num_steps)

    def on_validation_end(self) -> None:
        """Put them back; a checkpoint made after validating is resumed without doing it again."""
        if self._states_before_validation is not None:
            random_states.restore(self._states_before_validation, self.device, self.model.rng)
            self._states_before_validation = None

    def _log_losses(self, stage: str, losses: dict[str, Tensor], batch: Any) -> None:
        values = {f"{stage}/{name}": losses[name] for name in losses if name != CORE_LOSS}
        values[f"{stage}/loss"] = losses[CORE_LOSS]
        training = stage == "train"
        self.log_dict(
            {name: torch.as_tensor(value).detach() for name, value in values.items()},
            on_step=training,
            on_epoch=not training,
            batch_size=batch.img_batch.shape[1],
            sync_dist=not training,
        )

    def _log_train_iou(self, outs_per_frame: list[FrameOutputs], batch: Any) -> None:
        """Log ``train/iou`` on the steps that reach the loggers; the others do not pay for it.

        Of clips of one frame it is ``train/iou@8clicks``, or what their last round is called.
        """
        every_n_steps = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.global_step + 1) % every_n_steps:
            return
        rounds = rounds_of(outs_per_frame)
        # The one frame of an image counts although it was prompted.
        prompted = [not rounds and received_prompt(outs) for outs in outs_per_frame]
        if all(prompted):
            return
        name = "train/iou"
        if rounds:
            first = first_prompt_of(rounds[0], self.config.model.prompt_type)
            name += f"@{name_of_round(len(rounds) - 1, first)}"
        iou = mean_iou(_predicted_masks(outs_per_frame), batch.masks, prompted)
        self.log(name, iou, batch_size=batch.img_batch.shape[1])

    def _measure(self, batch: Any, outs_per_frame: list[FrameOutputs], kind: str) -> None:
        """Add a batch of validation clips to the metrics of clips of their length."""
        identifiers = batch.metadata.unique_objects_identifier[0]
        prompted = [received_prompt(outs) for outs in outs_per_frame]
        ids = (identifiers[:, 0], identifiers[:, 1])
        rest = (
            identifiers[:, 1] if self._category_layout() else None,
            _told(outs_per_frame, batch.metadata.unique_objects_identifier),
        )
        masks, rounds = _predicted_masks(outs_per_frame), rounds_of(outs_per_frame)
        if rounds:  # of one frame, which counts although it was prompted
            self.image_metrics.update(masks, batch.masks, torch.tensor([False]), *ids, *rest)
            self._measure_rounds(batch, rounds, kind)
            return
        self.metrics.update(masks, batch.masks, torch.tensor(prompted), *ids, *rest)
        if self.iou_copy is None:
            copied = copied_masks(batch.masks, prompted)
            self.copy_metrics.update(copied, batch.masks, torch.tensor(prompted), *ids)

    def _measure_rounds(self, batch: Any, rounds: list[FrameOutputs], kind: str) -> None:
        identifiers = batch.metadata.unique_objects_identifier[0]
        self.round_metrics.update(
            [_predicted_masks([outs])[0] for outs in rounds],
            batch.masks[0],
            first_prompt_of(rounds[0], kind),
            identifiers[:, 0].tolist(),
            identifiers[:, 1].tolist(),
        )

    def _compute_metrics(self, category_names: Optional[Sequence[str]]) -> dict[str, float]:
        """Return what is logged of all ranks: of videos, or of images where there is nothing else.

        IoU after each round of clicks on images is told beside either.
        """
        of_videos = self.metrics.compute(category_names)
        of_images = self.image_metrics.compute(category_names)
        return {**(of_videos or of_images), **self.round_metrics.compute()}

    def _scored(self) -> VideoMetrics:
        """Return the metrics that ``val/iou`` is of; see `_compute_metrics`."""
        return (
            self.metrics if self.metrics.rows or not self.image_metrics.rows else self.image_metrics
        )

    def _log_iou_copy(self) -> None:
        """Log ``val/iou_copy``, measured once, at each validation: a line beside ``val/iou``."""
        if self.iou_copy is None:
            self.iou_copy = self.copy_metrics.compute().get("iou")
            self._copied_ious = self.copy_metrics.frame_ious
            self.copy_metrics.reset()
        if self.iou_copy is not None:
            self.log("val/iou_copy", self.iou_copy)

    def _failure_shares(self, batch: Any) -> Optional[list[float]]:
        """Return of each video how much of it failed in the way that the worst clips are of."""
        section = self.config.visualizations
        if not section.enabled or section.worst_clips == 0 or section.worst_by == "iou":
            return None
        videos = batch.obj_to_frame_idx[0, :, 1].tolist()
        identifiers = batch.metadata.unique_objects_identifier[0, :, :2].tolist()
        tracks: list[list[Track]] = [[] for _ in range(batch.img_batch.shape[1])]
        for video, (video_id, object_id) in zip(videos, identifiers, strict=True):
            key = video_id, object_id
            track = self.metrics.tracks.get(key)
            tracks[video].append(self.image_metrics.tracks[key] if track is None else track)
        return [shares(each).get(section.worst_by, 0.0) for each in tracks]

    def _ious_of_sources(self) -> dict[str, float]:
        source_of = getattr(self._datamodule(), "source_of", None)
        if source_of is None:
            return {}
        rows = {**self.image_metrics.rows, **self.metrics.rows}
        found = mean_ious_by(rows, functools.partial(source_of, "val"))
        return {f"source/{name}/iou": iou for name, iou in found.items()}

    def _failures(self, names: Optional[Sequence[str]]) -> dict[str, float]:
        scored = self._scored()
        categories = {track.category for track in scored.tracks.values()}
        keys = category_keys(names or [], max(categories, default=-1) + 1)
        scalars = failure_scalars(scored.tracks, keys)
        if scored is self.metrics:
            return scalars
        # An image has no frame on which an object could go over to another, or fail later.
        return {name: value for name, value in scalars.items() if name.startswith("failures/")}

    def _tell_objects(self, iou: float) -> None:
        """Tell what became of the objects, also in ``metrics/``; never raises."""
        step = self.trainer.global_step
        folder = Path(self.trainer.default_root_dir, "metrics")
        path = folder / f"val_step{step}.csv"
        try:
            names = names_of(self._datamodule(), "val")
            categories = dict(enumerate(names["category_names"] or []))
            lookups = (
                names.get("clip_name", lambda video_id: f"video {video_id}"),
                names.get("object_names", lambda video_id: categories),
            )
            strips = strips_of(self._scored().tracks, *lookups)
            scored = scored_tracks(self.metrics.tracks)
            by_distance = iou_by_distance((track.ious, track.prompted) for track in scored)
            is_first = self.baseline is None or step <= self.baseline.step
            before = None if self.baseline is None or is_first else self.baseline.by_distance
            copied = iou_by_distance((ious, np.isnan(ious)) for ious in self._copied_ious.values())
            self.findings = Findings(strips, by_distance, before, copied)
            folder.mkdir(parents=True, exist_ok=True)
            # Names of files may hold what is no text.
            options = {"encoding": "utf-8", "errors": "backslashreplace"}
            rows = {**self.image_metrics.rows, **self.metrics.rows}
            tracks = {**self.image_metrics.tracks, **self.metrics.tracks}
            objects = as_csv(rows, tracks, *lookups)
            path.write_text(objects, **options)
            self.objects_table = path
            if is_first:
                self.baseline = Baseline(step, iou, objects, by_distance)
            frames = frames_csv(strips_of(tracks, *lookups))
            path.with_name(f"{path.stem}_frames.csv").write_text(frames, **options)
        except Exception as error:
            if not self._table_failed:
                self._table_failed = True
                log.warning(
                    "%s was not written; training continues (reported once)", path, exc_info=error
                )

    def _see_doctor(self, iou: float) -> None:
        """Say what is wrong with the training, on numbers that are there; never raises."""
        step = self.trainer.global_step
        try:
            self.doctor.note(Validation(step, iou, *self._train_losses.take()))
            news = self.doctor.diagnose(self._case())
            if news:
                log.info("%s", news)
        except Exception as error:
            if not self._doctor_failed:
                self._doctor_failed = True
                log.warning(
                    "what is wrong was not looked for; training continues (reported once)",
                    exc_info=error,
                )

    def _case(self) -> Case:
        starts_random = self.load_report is None and self.resumed_step is None
        scored = self._scored()
        tracks = scored.tracks
        return Case(
            history=self.doctor.history,
            frames=frames_of(tracks),
            prompted_ious=prompted_ious_of(tracks),
            areas=areas_of(tracks),
            first_ious=first_ious_of(tracks, scored.frame_ious),
            first_copied=first_ious_of(tracks, self._copied_ious),
            iou_copy=self.iou_copy,
            image_size=self.config.model.image_size,
            cell=self.model.backbone_stride,
            lr=self.config.optimizer.lr,
            num_warmup_steps=self._num_warmup_steps,
            starts_random=starts_random,
            has_random_memory=starts_random and not trains_memory(self.model),
            image_encoder_lr=self.config.optimizer.image_encoder_lr,
        )

    def _category_layout(self) -> bool:
        return bool(getattr(self._datamodule(), "category_layout", False))

    def _datamodule(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]


def _predicted_masks(outs_per_frame: list[FrameOutputs]) -> Tensor:
    """Return [T, O, H, W] bool: where the logits are positive and finite."""
    logits = (outs["pred_masks_high_res"].detach()[:, 0] for outs in outs_per_frame)
    return torch.stack([above(frame) for frame in logits])


def _told(outs_per_frame: list[FrameOutputs], identifiers: Tensor) -> Told:
    """Return the frame numbers and the model's estimates of a batch's objects."""
    shape = identifiers.shape[:2]
    estimates = []
    for name in ("multistep_pred_ious", "multistep_object_score_logits"):
        found = torch.full(shape, math.nan, device=identifiers.device)
        for t, outs in enumerate(outs_per_frame):
            steps: Any = outs.get(name)
            if steps:
                # SAM 2 keeps the mask of the highest estimate.
                found[t] = steps[-1].detach().float().amax(1)
        estimates.append(found.cpu().numpy())
    return Told(identifiers[..., 2].cpu().numpy(), *estimates)


def _build_loss(config: Config) -> torch.nn.Module:
    from training.loss_fns import MultiStepMultiMasksAndIous

    options = dataclasses.asdict(config.loss)
    weights = {
        name: options.pop(name) for name in ("loss_mask", "loss_dice", "loss_iou", "loss_class")
    }
    return MultiStepMultiMasksAndIous(weight_dict=weights, **options)
