"""Fine-tune SAM 2 on video: ``python train.py visualizations.enabled=true``.

Composes ``configs/`` with the overrides given, builds module and data, and runs Lightning.
"""

import dataclasses
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from core.checks import UserError
from core.config import Config, register_schema, to_config
from core.console import quiet_other_ranks, warnings_as_lines
from core.overrides import prepare, print_anything

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from core.data import VideoDataModule
    from core.trainer import SAM2LightningModule


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    """Train as `cfg` says.

    Mistakes in settings, data and files of weights, and a missing ``sam2``, end in one sentence and
    exit status 1: before training starts, but for damaged files in the middle of videos. Any other
    error comes with its traceback.
    """
    with warnings_as_lines():
        try:
            config = to_config(cfg)
            if config.model.architecture == "auto":
                from core.model.loading import with_architecture

                config = dataclasses.replace(config, model=with_architecture(config.model))
            run_dir = Path(HydraConfig.get().runtime.output_dir)
            module, data, trainer = build(config, run_dir)
            train(config, run_dir, module, data, trainer)
        except UserError as error:
            sys.exit(f"error: {error}")
        except ImportError as error:
            from core.official import MissingSam2Error

            if not isinstance(error, MissingSam2Error):
                raise
            sys.exit(f"error: {error}")
        if HydraConfig.get().mode == RunMode.MULTIRUN and trainer.is_global_zero:
            from core.run import compare_runs_of_sweep

            compare_runs_of_sweep(Path(HydraConfig.get().sweep.dir).absolute())


def build(
    config: Config, run_dir: Path
) -> "tuple[SAM2LightningModule, VideoDataModule, pl.Trainer]":
    """Return the module, its data and a Trainer without loggers; nothing is started or written.

    Args:
        config: The whole configuration.
        run_dir: Where checkpoints will go.

    Raises:
        UserError: A setting, the data or a checkpoint cannot work.
        MissingSam2Error: ``sam2`` is not installed.
    """
    # Imported late: `--help` and mistakes in the configuration answer at once, and sam2 must not
    # initialise Hydra before Hydra itself does.
    from core.official import import_sam2

    import_sam2()
    import lightning.pytorch as pl
    from lightning.pytorch.utilities import rank_zero_only

    from core.callbacks import OutOfMemory, build_callbacks
    from core.data import VideoDataModule
    from core.data.readers.recognise import resolve_source
    from core.resume import check_resumable
    from core.run import (
        check_devices,
        check_images,
        check_interval,
        check_skipping,
        check_validation,
        find_unused_parameters_in_ddp,
        leave_messages_to_hydra,
        lightning_refuses,
        trainer_arguments,
    )
    from core.trainer import SAM2LightningModule

    quiet_other_ranks(getattr(rank_zero_only, "rank", 0))
    leave_messages_to_hydra()
    check_devices(config.trainer)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    config.data = resolve_source(config.data)
    data = VideoDataModule(config.data, config.model.image_size, config.seed)
    data.setup("fit")
    module = SAM2LightningModule(config)
    if data.trains_on_images_alone:
        check_images(config.model, module.model)
    check_resumable(config, module.model)
    find_unused_parameters_in_ddp()
    has_logger = bool(config.logger) and not config.trainer.fast_dev_run
    checkpoints = run_dir / "checkpoints"
    with lightning_refuses(config.trainer):
        trainer = pl.Trainer(
            **trainer_arguments(config.trainer),
            logger=False,
            callbacks=[
                *build_callbacks(config.trainer, checkpoints, has_logger),
                OutOfMemory(config, checkpoints / "last.ckpt"),
            ],
            default_root_dir=run_dir,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    check_skipping(config.trainer, trainer.world_size)
    check_interval(config.trainer, data.num_train_batches(trainer.world_size))
    check_validation(config.trainer, data.num_val_batches(trainer.world_size))
    return module, data, trainer


def train(
    config: Config,
    run_dir: Path,
    module: "SAM2LightningModule",
    data: "VideoDataModule",
    trainer: "pl.Trainer",
) -> None:
    """Run one training.

    Args:
        config: The whole configuration.
        run_dir: Where the resolved configuration, checkpoints and exported weights go.
        module: What `build` returned.
        data: The same.
        trainer: The same; gets its loggers.
    """
    from core.loggers import finish_swanlab, finish_wandb
    from core.run import (
        checkpoint_to_resume,
        describe,
        end_in_one_sentence,
        leave,
        leave_process_group_at_exit,
        say_how_to_go_on,
        signal_behind,
        status_after_signal,
        store_settings,
        write_to_log_file,
    )

    ckpt_path = checkpoint_to_resume(config, run_dir)
    if trainer.is_global_zero:
        run_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.structured(config), run_dir / "config.yaml")
        store_settings(config, run_dir)
        describe(config, run_dir, module, data, trainer, ckpt_path)
    try:
        _fit(config, run_dir, module, data, trainer, ckpt_path)
    except SystemExit as error:
        if trainer.is_global_zero:
            say_how_to_go_on(run_dir)
        # Lightning leaves with 0 after SIGTERM and with 1 after Ctrl+C.
        signum = signal_behind(error)
        if signum is None:
            raise
        if signum == signal.SIGTERM:
            leave_process_group_at_exit()
        sys.exit(status_after_signal(signum, trainer))
    except Exception as error:
        write_to_log_file("training failed", sys.exc_info())
        end_in_one_sentence(error, trainer)
        if trainer.is_global_zero:
            say_how_to_go_on(run_dir)
        raise
    finally:
        finish_wandb(config.swanlab.finish_timeout_s)
        if not finish_swanlab(config.swanlab.finish_timeout_s):
            leave()


def _fit(
    config: Config,
    run_dir: Path,
    module: "SAM2LightningModule",
    data: "VideoDataModule",
    trainer: "pl.Trainer",
    ckpt_path: Optional[str],
) -> None:
    from core.loggers import build_loggers
    from core.run import (
        leave_process_group_at_exit,
        report,
        say_where_to_watch,
        warn_of_missing_pictures,
    )

    # Only now: neither the stored settings nor a checkpoint are to name this folder.
    config.visualizations.run_dir = config.visualizations.run_dir or str(run_dir)
    # After the Trainer, which knows every process's rank: only rank zero starts a run.
    if not config.trainer.fast_dev_run:
        trainer.loggers = build_loggers(config, run_dir)
        warn_of_missing_pictures(config, trainer.loggers)
        if trainer.is_global_zero:
            say_where_to_watch(config, trainer.loggers)
    if config.trainer.validate_first and ckpt_path is None:
        trainer.validate(module, data, verbose=False)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    trainer.save_checkpoint(run_dir / "checkpoints" / "last.ckpt")
    if trainer.is_global_zero:
        report(config, run_dir, trainer)
    leave_process_group_at_exit()


register_schema()

if __name__ == "__main__":
    print_anything()
    try:
        sys.argv[1:] = prepare(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    main()
