"""What is known about weights as a user names them: which file, model, run and base they are of."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Optional, TypeVar

from omegaconf import OmegaConf
from torch import nn

from ..checks import UserError
from ..config import Config, ModelConfig, config_of, is_config, model_config_of
from .adapters import put_on_base, read_adapters
from .hugging_face import HUB, holds_weights, is_hugging_face, local_path
from .loading import load_found, model_config_from, read_weights
from .lora import inject, is_adapter, merge
from .weights import CheckpointError, FoundWeights, read_checkpoint

logger = logging.getLogger(__name__)

_Known = TypeVar("_Known", bound="KnownWeights")


@dataclass(frozen=True)
class Stored:
    """Settings of a training as its run or its checkpoint keeps them.

    Each section is read where it is asked for: weights can be used although this version of the
    program does not know a setting of the data any more.

    Attributes:
        path: The file that keeps them.
        settings: What ``dataclasses.asdict`` made of a `Config`.
    """

    path: Path
    settings: Mapping[str, Any]

    def model(self) -> ModelConfig:
        """Return the section of the model.

        Raises:
            CheckpointError: It is not one that this version of the program knows.
        """
        try:
            return model_config_of(self.settings["model"])
        except (TypeError, ValueError) as error:
            raise self._unusable(error) from error

    def config(self) -> Config:
        """Return all settings.

        Raises:
            CheckpointError: See `model`.
        """
        try:
            return config_of(self.settings)
        except UserError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"{self.path}: the settings in it cannot be used: {error}")


@dataclass(frozen=True)
class KnownWeights:
    """Weights, and what is known about them.

    Attributes:
        path: The file, or the folder of Hugging Face's.
        model: The model that they are of.
        stored: The settings that they were trained with; None: unknown.
        run_dir: The run that they are of; None: unknown.
        base: What `path` holds adapters for; None: what lies beside it.
        hub: Their name on Hugging Face's hub; None: they are not from there.
        name: The setting that named them, for messages.
        base_name: The setting that names `base`, likewise.
    """

    path: Path
    model: ModelConfig
    stored: Optional[Stored] = None
    run_dir: Optional[Path] = None
    base: Optional[str] = None
    hub: Optional[str] = None
    name: str = "weights"
    base_name: str = "base"

    @classmethod
    def find(
        cls: type[_Known],
        named: str,
        given: ModelConfig,
        chosen: Collection[str] = (),
        name: str = "weights",
        base: Optional[str] = None,
        base_name: str = "base",
    ) -> _Known:
        """Find weights and the settings that belong to them.

        Args:
            named: A run's folder (its best weights), a ``.ckpt``, an exported or released ``.pt``,
                a folder or file of Hugging Face's, ``hf:OWNER/NAME[@REVISION]``, or a file of
                adapters.
            given: The model section of the command line.
            chosen: Fields of `given` that the user chose: they go before what is found out. The
                architecture ``auto`` is what is found out.
            name: The setting that named them, for messages.
            base: What adapters in a file of their own belong to; None: what their run started
                from, or what lies beside them.
            base_name: The setting that names `base`, for messages.

        Raises:
            CheckpointError: There are none, or they are of no SAM 2.
        """
        path, folder = _locate(named, name)
        of_run = None if folder is None else _stored_by(folder)
        # A checkpoint knows better than its folder, in which another run may have begun.
        stored = _stored_in(path, name) or of_run
        model = _model_of(path, stored, name)
        if read_adapters(path) is not None:
            base = base or _base_of_run(stored)
        if given.architecture == "auto":
            chosen = {*chosen} - {"architecture"}
        model = replace(model, **{field: getattr(given, field) for field in chosen})
        hub, run_dir = named if named.startswith(HUB) else None, folder if of_run else None
        return cls(path, model, stored, run_dir, base, hub, name, base_name)

    def __str__(self) -> str:
        return self.hub or str(self.path)

    @cached_property
    def config(self) -> Optional[Config]:
        """The settings that the weights were trained with, None where they are unknown.

        Raises:
            CheckpointError: They are not of this version of the program.
        """
        return None if self.stored is None else self.stored.config()

    def read(self) -> FoundWeights:
        """Return the tensors; adapters from a file of their own stand beside those of their base.

        Raises:
            CheckpointError: They, or the base of adapters, cannot be used.
        """
        adapters = read_adapters(self.path)
        if adapters is None:
            return read_weights(self.path, self.name)
        return put_on_base(adapters, self.base, self.base_name)

    def load_into(self, model: nn.Module) -> None:
        """Load the weights into a SAM 2, in place, adapters merged.

        Args:
            model: A SAM 2 for training or a predictor, without adapters.

        Raises:
            CheckpointError: The weights cannot be used or do not fit.
        """
        found = self.read()
        # Exported weights have the adapters of their training merged already.
        if any(map(is_adapter, found.weights)):
            inject(model, self.model.lora)
        load_found(model, found, str(self), self.name)
        merge(model)


def _locate(named: str, name: str) -> tuple[Path, Optional[Path]]:
    """Return where weights lie, and the folder that may be their run's."""
    path = local_path(named, name)
    if path.is_dir() and not holds_weights(path):
        return _best_of(path, f"{name}={named}"), path
    return path, path.parent.parent if path.parent.name in ("weights", "checkpoints") else None


def _best_of(run_dir: Path, setting: str) -> Path:
    """Return a run's best weights, or its last ones where nothing was validated.

    A run that was extended and then interrupted has a newer checkpoint than it has weights.
    """
    weights, checkpoints = run_dir / "weights", run_dir / "checkpoints"
    for candidates in (
        [weights / "best.pt", *checkpoints.glob("best*.ckpt")],
        [weights / "last.pt", checkpoints / "last.ckpt"],
    ):
        found = [path for path in candidates if path.is_file()]
        if found:
            return max(found, key=lambda path: path.stat().st_mtime_ns)
    raise CheckpointError(
        f"{setting} has no weights: expected the folder of a run, with weights/best.pt or a"
        " checkpoint in checkpoints/"
    )


def _stored_by(run_dir: Path) -> Optional[Stored]:
    """Return the settings of a run; None: the folder is not one of a run of this program.

    Other programs have a ``config.yaml`` beside a folder ``checkpoints`` too: Meta's has.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        return None
    try:
        content = OmegaConf.load(path)
        if not is_config(OmegaConf.to_container(content)):
            return None
        settings = OmegaConf.to_container(content, resolve=True)
    except Exception as error:  # of YAML, of OmegaConf or of the disk
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        logger.warning("%s cannot be read, the settings of the run are unknown: %s", path, reason)
        return None
    assert isinstance(settings, dict)
    return Stored(path, {str(key): value for key, value in settings.items()})


def settings_in(checkpoint: Any) -> Optional[dict[str, Any]]:
    """Return the settings that a checkpoint of this program stores, None for other content.

    Args:
        checkpoint: What `core.model.weights.read_checkpoint` returned.
    """
    parameters = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    settings = parameters.get("config") if isinstance(parameters, dict) else None
    return settings if isinstance(settings, dict) and is_config(settings) else None


def _stored_in(path: Path, name: str) -> Optional[Stored]:
    """Return the settings that a checkpoint of this program stores, None for other files."""
    if is_hugging_face(path):
        return None
    settings = settings_in(read_checkpoint(path, name))
    return None if settings is None else Stored(path, settings)


def _model_of(path: Path, stored: Optional[Stored], name: str) -> ModelConfig:
    adapters = read_adapters(path)
    if adapters is not None:
        return adapters.model
    return model_config_from(path, name) if stored is None else stored.model()


def _base_of_run(stored: Optional[Stored]) -> Optional[str]:
    """Return what a run with adapters started from, where it still lies there."""
    base = None if stored is None else stored.model().checkpoint_path
    return base if base is not None and (base.startswith(HUB) or Path(base).exists()) else None
