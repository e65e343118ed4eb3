"""The typed configuration: one dataclass per section, checked when it is built.

Hydra composes ``configs/`` on top of these dataclasses, so a key that does not exist or a value of
the wrong type fails at composition. `to_config` then turns the result into plain dataclasses, which
runs every ``__post_init__``: a value that makes no sense is refused with the name of its field, the
value found and what is allowed. Nothing behind `train.py` ever sees a ``DictConfig``.
"""

import dataclasses
import difflib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, get_args, get_origin  # noqa: UP035 (OmegaConf reads List)

from .checks import require, require_choice
from .data_config import (  # noqa: F401 (every section can be imported from here)
    AugmentationConfig,
    DataConfig,
    SyntheticConfig,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
PROMPT_TYPES = ("point", "bbox", "mask", "mixed")
# SAM 2's batches hold float32 frames, which a model in pure half or double precision does not take.
PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16", "16-mixed", "16")
LOGGERS = ("swanlab", "wandb", "tensorboard", "csv")
ARCHITECTURES = (
    "tiny",
    "sam2.1_hiera_tiny",
    "sam2.1_hiera_small",
    "sam2.1_hiera_base_plus",
    "sam2.1_hiera_large",
)
TRAINABLE_PRESETS = ("all", "memory", "decoder_memory", "all_but_image_encoder")


@dataclass
class ModelConfig:
    """The SAM 2 that is trained.

    Attributes:
        architecture: ``tiny`` (1.5 M parameters, learns the synthetic task in minutes) or the name
            of a released model, built from the YAML inside the ``sam2`` package.
        checkpoint_path: Released or exported weights (a ``.pt`` file with a ``model`` entry); None
            starts from random weights.
        image_size: Side in pixels of the square frames given to the model, a multiple of 32.
        prompt_type: ``point``, ``bbox``, ``mask``, or ``mixed`` (drawn at random per batch with the
            probabilities of official training: mask 0.5, point 0.25, box 0.25).
        num_correction_points: Correction clicks per corrected frame (point and box prompts only).
        num_frames_to_correct: At most so many frames receive clicks in training.
        num_init_cond_frames: At most so many frames are prompted from the start in training.
        trainable_modules: None or ``all``: everything is trained; a preset (``memory``,
            ``decoder_memory``, ``all_but_image_encoder``), or a list of SAM 2 module names: every
            parameter outside them is frozen.
        activation_checkpointing: Recompute the image encoder's activations in the backward pass:
            less memory, about a third more time in the encoder.
        compile_image_encoder: Run the image encoder through ``torch.compile``.
    """

    architecture: str = "tiny"
    checkpoint_path: Optional[str] = None
    image_size: int = 128
    prompt_type: str = "mask"
    num_correction_points: int = 7
    num_frames_to_correct: int = 1
    num_init_cond_frames: int = 1
    trainable_modules: Any = None
    activation_checkpointing: bool = False
    compile_image_encoder: bool = False

    def __post_init__(self) -> None:
        require_choice("model.architecture", self.architecture, ARCHITECTURES)
        require_choice("model.prompt_type", self.prompt_type, PROMPT_TYPES)
        require(
            self.image_size >= 64 and self.image_size % 32 == 0,
            "model.image_size",
            self.image_size,
            "a multiple of 32, at least 64",
        )
        for name in ("num_correction_points", "num_frames_to_correct", "num_init_cond_frames"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        require(
            self.num_frames_to_correct >= self.num_init_cond_frames,
            "model.num_frames_to_correct",
            self.num_frames_to_correct,
            f"at least model.num_init_cond_frames ({self.num_init_cond_frames})",
        )
        modules = self.trainable_modules
        if isinstance(modules, str):
            self.trainable_modules = [modules]
        elif modules is not None:
            require(
                isinstance(modules, (list, tuple))
                and len(modules) > 0
                and all(isinstance(name, str) for name in modules),
                "model.trainable_modules",
                modules,
                f"null, a preset ({', '.join(TRAINABLE_PRESETS)}) or a list of module names",
            )
            self.trainable_modules = list(modules)


@dataclass
class LossConfig:
    """Weights and options of the official ``MultiStepMultiMasksAndIous``, under its own names."""

    loss_mask: float = 20.0
    loss_dice: float = 1.0
    loss_iou: float = 1.0
    loss_class: float = 1.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    supervise_all_iou: bool = True
    iou_use_l1_loss: bool = True
    pred_obj_scores: bool = True
    focal_gamma_obj_score: float = 0.0
    focal_alpha_obj_score: float = -1.0

    def __post_init__(self) -> None:
        for name in ("loss_mask", "loss_dice", "loss_iou", "loss_class"):
            require(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), "at least 0")


@dataclass
class OptimizerConfig:
    """AdamW or Adam.

    Attributes:
        name: ``adamw`` or ``adam``.
        lr: Peak learning rate.
        image_encoder_lr: Peak learning rate of the image encoder; None: `lr`.
        layer_decay: The image encoder trunk's learning rate is multiplied by this once per block
            counted from its output; 1 turns it off, official MOSE fine-tuning uses 0.9.
        weight_decay: Not applied to norms, biases and other one-dimensional parameters.
        betas: Adam's coefficients.
    """

    name: str = "adamw"
    lr: float = 1e-3
    image_encoder_lr: Optional[float] = None
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    betas: List[float] = field(default_factory=lambda: [0.9, 0.999])  # noqa: UP006

    def __post_init__(self) -> None:
        require_choice("optimizer.name", self.name, ("adamw", "adam"))
        require(self.lr > 0, "optimizer.lr", self.lr, "greater than 0")
        require(
            self.image_encoder_lr is None or self.image_encoder_lr > 0,
            "optimizer.image_encoder_lr",
            self.image_encoder_lr,
            "null or greater than 0",
        )
        require(0 < self.layer_decay <= 1, "optimizer.layer_decay", self.layer_decay, "in (0, 1]")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "at least 0")
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "optimizer.betas",
            self.betas,
            "two numbers in [0, 1)",
        )


@dataclass
class SchedulerConfig:
    """Learning rate over optimizer steps.

    Attributes:
        name: ``cosine`` (to `final_lr_ratio` at the last step) or ``constant``.
        warmup_fraction: Share of all steps over which the rate rises linearly from near 0.
        final_lr_ratio: The last rate as a share of the peak (``cosine``).
    """

    name: str = "cosine"
    warmup_fraction: float = 0.1
    final_lr_ratio: float = 0.01

    def __post_init__(self) -> None:
        require_choice("scheduler.name", self.name, ("cosine", "constant"))
        require(
            0 <= self.warmup_fraction < 1,
            "scheduler.warmup_fraction",
            self.warmup_fraction,
            "in [0, 1)",
        )
        require(
            0 <= self.final_lr_ratio <= 1,
            "scheduler.final_lr_ratio",
            self.final_lr_ratio,
            "in [0, 1]",
        )


@dataclass
class TrainerConfig:
    """Arguments of ``lightning.pytorch.Trainer`` under their own names, and a few of ours.

    The weights of the last step are validated whatever the interval.

    Attributes:
        strategy: Lightning's name; ``ddp``, which ``auto`` chooses for several processes, finds
            unused parameters, because which ones get a gradient depends on the prompts.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``; on a CPU the last one is
            ``bf16-mixed`` too.
        validate_first: Validate the starting weights before training, as a base line.
        early_stopping_patience: Stop after so many validations without a better ``val/iou``; None:
            never.
        checkpoint_every_n_steps: Write ``last.ckpt`` every so many optimizer steps as well as after
            every validation; None: after validation only.
    """

    max_steps: int = 500
    max_epochs: Optional[int] = None
    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    accumulate_grad_batches: int = 1
    gradient_clip_val: Optional[float] = 1.0
    val_check_interval: Any = None
    check_val_every_n_epoch: Optional[int] = 1
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    log_every_n_steps: int = 10
    num_sanity_val_steps: int = 2
    enable_progress_bar: bool = True
    deterministic: Any = None
    fast_dev_run: Any = False
    validate_first: bool = False
    early_stopping_patience: Optional[int] = None
    checkpoint_every_n_steps: Optional[int] = None

    def __post_init__(self) -> None:
        require(
            self.max_steps >= -1 and self.max_steps != 0,
            "trainer.max_steps",
            self.max_steps,
            "at least 1, or -1 for no limit",
        )
        require(
            self.max_steps != -1 or self.max_epochs is not None,
            "trainer.max_steps and trainer.max_epochs",
            (self.max_steps, self.max_epochs),
            "set, one of them at least",
        )
        require_choice("trainer.precision", self.precision, PRECISIONS)
        for name in ("accumulate_grad_batches", "num_nodes", "log_every_n_steps"):
            require(getattr(self, name) >= 1, f"trainer.{name}", getattr(self, name), "at least 1")
        for name in ("early_stopping_patience", "checkpoint_every_n_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"trainer.{name}", value, "null or at least 1")


@dataclass
class SwanLabConfig:
    """Arguments of ``SwanLabLogger`` under their own names.

    Attributes:
        mode: ``local`` (files under `log_dir`, shown by ``make dashboard``), ``online`` (needs an
            API key), ``offline`` or ``disabled``.
        start_timeout_s: Seconds that starting the run may take before it is given up.
        finish_timeout_s: Seconds that closing the run may take before it is given up.
    """

    project: str = "sam2-finetune"
    workspace: Optional[str] = None
    experiment_name: Optional[str] = None
    description: Optional[str] = None
    log_dir: str = "swanlog"
    mode: str = "local"
    tags: Optional[List[str]] = None  # noqa: UP006
    id: Optional[str] = None
    start_timeout_s: float = 60.0
    finish_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        require_choice("swanlab.mode", self.mode, ("local", "online", "offline", "disabled"))
        for name in ("start_timeout_s", "finish_timeout_s"):
            value = getattr(self, name)
            require(value > 0, f"swanlab.{name}", value, "greater than 0")


@dataclass
class VisualizationsConfig:
    """When sheets are drawn and what they show.

    Attributes:
        enabled: Off by default: nothing is drawn and no tensor is touched.
        every_n_steps: Training: every so many optimizer steps. Validation: on the first batch and
            every so many batches after it.
        max_frames: Rows of a sheet.
        max_videos: Clips drawn per event, the first ones of the batch.
        frame_stride: Every so manieth frame of the clip is drawn.
        num_categories: Categories drawn; None: ``data.num_categories``; that None too: this video's
            objects.
        panel_size: Longest side of a panel in pixels; larger frames are reduced.
        pinned_clips: The first clips of the unshuffled validation set, drawn at every validation;
            with several devices of rank zero's share.
        worst_clips: Clips of the lowest mean IoU, drawn at the end of every validation; with
            several devices of rank zero's share. Clips are looked at while less than half of
            ``max_overhead`` is spent.
        animation: Log the drawn validation clips as GIFs as well, where a logger takes them.
        max_pending: Snapshots that may wait to be drawn; further ones are dropped and counted.
        max_overhead: Largest share of wall time that taking pictures may block training, judged
            before each event once 0.25 s have been blocked in all.
        flush_timeout_s: Seconds that the end of training waits for pictures still to be drawn.
    """

    enabled: bool = False
    every_n_steps: int = 200
    max_frames: int = 4
    max_videos: int = 1
    frame_stride: int = 1
    num_categories: Optional[int] = None
    panel_size: int = 256
    pinned_clips: int = 1
    worst_clips: int = 0
    animation: bool = False
    max_pending: int = 2
    max_overhead: float = 0.02
    flush_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("enabled", "animation"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"visualizations.{name}", value, "true or false")
        for name in ("every_n_steps", "max_frames", "max_videos", "frame_stride", "max_pending"):
            value = getattr(self, name)
            require(_is_int(value) and value >= 1, f"visualizations.{name}", value, "at least 1")
        for name in ("pinned_clips", "worst_clips"):
            value = getattr(self, name)
            require(_is_int(value) and value >= 0, f"visualizations.{name}", value, "at least 0")
        require(
            self.num_categories is None
            or (_is_int(self.num_categories) and self.num_categories >= 1),
            "visualizations.num_categories",
            self.num_categories,
            "null or at least 1",
        )
        require(
            _is_int(self.panel_size) and 64 <= self.panel_size <= 1024,
            "visualizations.panel_size",
            self.panel_size,
            "between 64 and 1024",
        )
        require(
            _is_number(self.max_overhead) and 0 < self.max_overhead <= 1,
            "visualizations.max_overhead",
            self.max_overhead,
            "in (0, 1]",
        )
        require(
            _is_number(self.flush_timeout_s) and self.flush_timeout_s > 0,
            "visualizations.flush_timeout_s",
            self.flush_timeout_s,
            "greater than 0",
        )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass
class Config:
    """The whole configuration of a run.

    Attributes:
        seed: Seeds weights, data order, synthetic clips and augmentation.
        ckpt_path: Lightning checkpoint to resume from.
        logger: ``swanlab``, ``wandb``, ``tensorboard``, ``csv``, a list of them, or null.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    swanlab: SwanLabConfig = field(default_factory=SwanLabConfig)
    visualizations: VisualizationsConfig = field(default_factory=VisualizationsConfig)
    seed: int = 0
    ckpt_path: Optional[str] = None
    logger: Any = "swanlab"

    def __post_init__(self) -> None:
        names = [self.logger] if isinstance(self.logger, str) else list(self.logger or [])
        for name in names:
            require_choice("logger", name, LOGGERS)
        self.logger = names
        if self.model.prompt_type != "mask":
            require(
                self.model.num_frames_to_correct <= self.data.num_frames,
                "model.num_frames_to_correct",
                self.model.num_frames_to_correct,
                f"at most data.num_frames ({self.data.num_frames})",
            )
        # Of frames that all have mask prompts nothing depends on the weights.
        most = self.data.num_frames - (self.model.prompt_type in ("mask", "mixed"))
        require(
            self.model.num_init_cond_frames <= most,
            "model.num_init_cond_frames",
            self.model.num_init_cond_frames,
            f"at most {most} with data.num_frames={self.data.num_frames} and "
            f"model.prompt_type={self.model.prompt_type}: a frame is to be left to track",
        )


def register_schema() -> None:
    """Make the dataclasses known to Hydra as ``schema``, the first entry of ``config.yaml``."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=Config)


def to_config(cfg: "DictConfig") -> Config:
    """Turn a composed configuration into checked dataclasses.

    Args:
        cfg: What Hydra composed.

    Returns:
        The configuration as plain dataclasses.

    Raises:
        ValueError: A field has a value that makes no sense; the message names the field, the value
            and what is allowed.
    """
    from omegaconf import OmegaConf

    OmegaConf.resolve(cfg)
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    return config


def explain_typos(overrides: list[str]) -> None:
    """Exit with the nearest valid name when an override names no field or file that exists.

    Args:
        overrides: The command line; options and what Hydra itself checks are left alone.
    """
    groups = {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in CONFIG_DIR.iterdir()
        if folder.is_dir()
    }
    names = {*_field_names(Config), *groups}
    for override in overrides:
        key, equals, value = override.partition("=")
        key = key.lstrip("+~")
        if not equals or key.startswith(("-", "hydra.", "hydra/")):
            continue
        if key not in names:
            near = difflib.get_close_matches(key, sorted(names), n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else "; the fields are in core/config.py"
            sys.exit(f"error: {key} is no setting{hint}")
        if key not in groups or "(" in value:
            continue  # a field, or a sweep that Hydra expands
        for choice in value.split(","):
            if choice in (*groups[key], "null"):
                continue
            near = difflib.get_close_matches(choice, groups[key], n=1, cutoff=0.5)
            hint = f"; did you mean {key}={near[0]}?" if near else ""
            sys.exit(
                f"error: {key}={choice} is no file of configs/{key}/, expected one of "
                f"{', '.join(groups[key])}{hint}"
            )


def _field_names(node: type, prefix: str = "") -> list[str]:
    names = []
    for item in dataclasses.fields(node):
        names.append(prefix + item.name)
        kind = item.type
        if get_origin(kind) is None and not get_args(kind) and dataclasses.is_dataclass(kind):
            names += _field_names(kind, f"{prefix}{item.name}.")
    return names
