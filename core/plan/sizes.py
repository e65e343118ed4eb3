"""Where to probe: settings of a few steps at sizes below the user's own, and of each choice."""

import dataclasses
import itertools
from typing import Any

from ..config import (
    CHECKPOINTING,
    Config,
    DataConfig,
    ModelConfig,
    SyntheticConfig,
    VisualizationsConfig,
)
from .fit import Size

NUM_STEPS = 3  # of a probe; the optimizer has its state from the second one on


def sizes_to_probe(own: Size, config: Config) -> list[Size]:
    """Return two sizes of frames, objects and image side in all combinations, the smallest first.

    Args:
        own: What is to be predicted.
        config: The training's; clips are long enough for its prompts.
    """
    model = config.model
    fewest = max(2, model.num_init_cond_frames + 1, model.num_frames_to_correct)
    frames = (fewest, max(fewest + 1, min(4, own.frames)))
    if own.frames == 1:  # of an image each round of clicks is trained, and nothing is tracked
        frames = (1, fewest)
    objects = (1, min(3, max(2, own.objects)))
    small = max(64, own.side // 2 // 32 * 32)
    sides = (small, max(small + 32, own.side * 3 // 4 // 32 * 32))
    return [Size(t, o, s) for s, t, o in itertools.product(sides, frames, objects)]


def probe_of(config: Config, size: Size) -> Config:
    """Return the settings of a training of a few steps at one size, on synthetic clips."""
    model = dataclasses.replace(
        config.model,
        checkpoint_path=None,
        image_size=size.side,
        # In mixed training the batches with clicks need most.
        prompt_type="point" if config.model.prompt_type == "mixed" else config.model.prompt_type,
        compile_image_encoder=False,
    )
    data = DataConfig(
        num_frames=size.frames,
        batch_size=config.data.batch_size,
        max_objects=size.objects,
        synthetic=SyntheticConfig(
            min_objects=size.objects,
            max_objects=size.objects,
            min_radius=0.05,
            max_radius=0.1,
            overlap=True,
        ),
    )
    trainer = dataclasses.replace(
        config.trainer,
        max_steps=NUM_STEPS,
        max_epochs=None,
        devices=1,
        num_nodes=1,
        strategy="auto",
        # From the second batch of a step on there are gradients beside the activations.
        accumulate_grad_batches=min(2, config.trainer.accumulate_grad_batches),
        val_check_interval=None,
        check_val_every_n_epoch=1,
        limit_train_batches=None,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        fast_dev_run=False,
        early_stopping_patience=None,
        on_out_of_memory="end",
    )
    return Config(
        model=model,
        data=data,
        loss=config.loss,
        optimizer=config.optimizer,
        scheduler=config.scheduler,
        trainer=trainer,
        visualizations=VisualizationsConfig(),
        seed=config.seed,
        logger=None,
    )


def choices_of(config: Config) -> dict[str, Config]:
    """Return the settings of each choice of the table by what has to be typed for it.

    Each alone, and precision with all checkpointing, which leave the training what it is.
    """
    model, choices = config.model, {}
    precision = config.trainer.precision.startswith("32")
    if precision:
        choices["trainer.precision=bf16-mixed"] = _in_bf16(config)
    checkpointing = _checkpointing(model)
    for name in checkpointing:
        choices[f"model.activation_checkpointing={name}"] = _with_model(
            config, activation_checkpointing=name
        )
    if precision and checkpointing:
        everything = "trainer.precision=bf16-mixed model.activation_checkpointing=all"
        choices[everything] = _in_bf16(_with_model(config, activation_checkpointing="all"))
    if model.trainable_modules is None and model.lora.rank is None:
        for name in ("all_but_image_encoder", "decoder_memory", "memory"):
            choices[f"model.trainable_modules={name}"] = _with_model(
                config, trainable_modules=[name]
            )
    return choices


def _checkpointing(model: ModelConfig) -> list[str]:
    """Return what else may be computed again; without clicks there is nothing behind them."""
    if model.activation_checkpointing == "none":
        return [
            name for name in CHECKPOINTING[1:] if name != "clicks" or model.prompt_type != "mask"
        ]
    return [] if model.activation_checkpointing == "all" else ["all"]


def _in_bf16(config: Config) -> Config:
    trainer = dataclasses.replace(config.trainer, precision="bf16-mixed")
    return dataclasses.replace(config, trainer=trainer)


def _with_model(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))
