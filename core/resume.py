"""Whether a checkpoint is one that this run can resume, said before anything is started."""

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from .checks import UserError
from .config import Config
from .model.known_weights import settings_in
from .model.weights import CheckpointError, find_weights, read_checkpoint
from .optim import build_optimizer

# What Lightning puts into the checkpoint of a training and asks for when it resumes one.
_NEEDED = (
    "pytorch-lightning_version", "epoch", "global_step", "loops", "state_dict", "optimizer_states",
    "lr_schedulers",
)  # fmt: skip
# The settings that decide which weights the model has.
_SHAPES = ("model.architecture", "model.lora.rank", "model.lora.modules")
# The settings that decide which parameters the optimizer has.
_TRAINED = ("model.trainable_modules",)


def check_resumable(config: Config, model: nn.Module) -> None:
    """Raise UserError unless ``ckpt_path`` is null or a checkpoint that this run can resume.

    Args:
        config: The whole configuration.
        model: The SAM 2 of this run; what is not trained is frozen already.

    Raises:
        UserError: The message has the setting that works.
    """
    if config.ckpt_path is None:
        return
    path = config.ckpt_path
    content = read_checkpoint(Path(path), "ckpt_path")
    _check_complete(path, content)
    stored = settings_in(content) or {}
    _check_averaged(path, content, stored, config)
    _check_weights(path, content["state_dict"], stored, config, model)
    _check_optimizer(path, stored, config)
    if not _has_same_groups(content["optimizer_states"], config, model):
        changed = _changed(_TRAINED, stored, config)
        hint = f"use {changed}" if changed else "its optimizer has other parameters"
        raise UserError(f"ckpt_path={path} does not fit the optimizer of this run: {hint}")


def _check_complete(path: str, content: Any) -> None:
    lacking = [key for key in _NEEDED if not isinstance(content, dict) or key not in content]
    if not lacking:
        return
    if _holds_weights(content) and len(lacking) > 1:
        raise UserError(
            f"ckpt_path={path} holds weights, but no training to resume: start a new one from them "
            f"with model.checkpoint_path={path}"
        )
    raise UserError(
        f"ckpt_path={path} is not a checkpoint to resume: it has no {', '.join(lacking)}"
    )


def _check_averaged(path: str, content: Any, stored: Any, config: Config) -> None:
    """Refuse to leave the live weights behind: the optimizer's state belongs to them."""
    if "current_model_state" in content and config.trainer.ema_decay is None:
        decay = _value(stored, "trainer.ema_decay")
        raise UserError(
            f"ckpt_path={path} holds an average of the weights beside them: resume it with "
            f"trainer.ema_decay={decay or 'DECAY'}"
        )


def _holds_weights(content: Any) -> bool:
    try:
        return find_weights(content) is not None
    except CheckpointError:  # several of them
        return True


def _check_weights(path: str, found: Any, stored: Any, config: Config, model: nn.Module) -> None:
    own = {f"model.{name}": value.shape for name, value in model.state_dict().items()}
    if isinstance(found, dict) and own == {
        name: getattr(value, "shape", None) for name, value in found.items()
    }:
        return
    changed = _changed(_SHAPES, stored, config) if stored else ""
    hint = f": use {changed}, with which it was trained" if changed else ""
    raise UserError(f"ckpt_path={path} does not fit the model of this run{hint}")


def _check_optimizer(path: str, stored: Any, config: Config) -> None:
    """Refuse settings that the optimizer's state would silently put back to what they were."""
    before = stored.get("optimizer", {})
    own = dataclasses.asdict(config.optimizer)
    names = [f"optimizer.{name}" for name in own if name in before]
    # Null stands for the other rate.
    if _encoder_lr(before) == _encoder_lr(own) and "optimizer.image_encoder_lr" in names:
        names.remove("optimizer.image_encoder_lr")
    changed = _changed(tuple(names), stored, config)
    if changed:
        raise UserError(
            f"ckpt_path={path} holds the optimizer with its settings: resume it with {changed}, or "
            f"start a new training from its weights with model.checkpoint_path={path}"
        )


def _encoder_lr(settings: dict[str, Any]) -> Any:
    own = settings.get("image_encoder_lr")
    return settings.get("lr") if own is None else own


def _has_same_groups(states: Any, config: Config, model: nn.Module) -> bool:
    if not isinstance(states, list) or len(states) != 1:
        return False
    groups = build_optimizer(model, config.optimizer).param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    stored = states[0]["param_groups"]
    if [(group["name"], len(group["params"])) for group in groups] != [
        (group.get("name"), len(group["params"])) for group in stored
    ]:
        return False
    return all(
        state["exp_avg"].shape == parameters[index].shape
        for index, state in states[0]["state"].items()
    )


def _changed(names: tuple[str, ...], stored: Any, config: Config) -> str:
    """Return the settings that were others when the checkpoint was written, with those values."""
    now, changed = dataclasses.asdict(config), []
    for name in names:
        before, here = _value(stored, name), _value(now, name)
        # Without adapters nothing depends on where they would be.
        if name == "model.lora.modules" and _value(stored, "model.lora.rank") is None:
            continue
        if before != here:
            value = "null" if before is None else str(before).replace("'", "").replace(" ", "")
            changed.append(f"{name}={value}")
    return " ".join(changed)


def _value(settings: Any, name: str) -> Any:
    """Return a setting of nested dictionaries, None where there is none."""
    for key in name.split("."):
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings
