"""Fine-tune SAM 2 on video: ``python train.py visualizations.enabled=true``.

Composes ``configs/`` with the overrides given, builds module and data, and runs Lightning.
"""

import dataclasses
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, Optional

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from core.config import Config, TrainerConfig, explain_typos, register_schema, to_config

log = logging.getLogger(__name__)
OWN_TRAINER_FIELDS = ("validate_first", "early_stopping_patience", "checkpoint_every_n_steps")


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    """Train as `cfg` says.

    What can be known before training starts ends in one sentence and exit status 1; whatever
    happens after that comes with its traceback.
    """
    try:
        config = to_config(cfg)
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        module, data, trainer = build(config, run_dir)
    except (ValueError, ImportError) as error:
        if type(error) is not ValueError and not type(error).__module__.startswith("core."):
            raise
        sys.exit(f"error: {error}")
    train(config, run_dir, module, data, trainer)


def build(config: Config, run_dir: Path) -> tuple[Any, Any, Any]:
    """Return the module, its data and a Trainer without loggers; nothing is started or written.

    Args:
        config: The whole configuration.
        run_dir: Where checkpoints will go.

    Raises:
        ValueError: A setting, the data or a checkpoint cannot work.
        MissingSam2Error: ``sam2`` is not installed.
    """
    # Imported late: `--help` and mistakes in the configuration answer at once, and sam2 must not
    # initialise Hydra before Hydra itself does.
    from core.model import import_sam2

    import_sam2()
    import lightning.pytorch as pl

    from core.callbacks import build_callbacks
    from core.data import VideoDataModule
    from core.trainer import SAM2LightningModule

    # Hydra's handlers write these messages already.
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
    if config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
        raise ValueError(
            f"ckpt_path={config.ckpt_path} does not exist, expected a checkpoint to resume from"
        )
    pl.seed_everything(config.seed, workers=True)
    data = VideoDataModule(config.data, config.model.image_size, config.seed)
    data.setup("fit")
    module = SAM2LightningModule(config)
    find_unused_parameters_in_ddp()
    has_logger = bool(config.logger) and not config.trainer.fast_dev_run
    trainer = pl.Trainer(
        **trainer_arguments(config.trainer),
        logger=False,
        callbacks=build_callbacks(config.trainer, run_dir / "checkpoints", has_logger),
        default_root_dir=run_dir,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    return module, data, trainer


def train(config: Config, run_dir: Path, module: Any, data: Any, trainer: Any) -> None:
    """Run one training.

    Args:
        config: The whole configuration.
        run_dir: Where the resolved configuration, checkpoints and exported weights go.
        module: What `build` returned.
        data: The same.
        trainer: The same; gets its loggers.
    """
    from core.loggers import build_loggers, finish_swanlab, finish_wandb

    ckpt_path = checkpoint_to_resume(config, run_dir)
    if trainer.is_global_zero:
        run_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.structured(config), run_dir / "config.yaml")
        describe(config, module, ckpt_path)
    try:
        # After the Trainer, which knows every process's rank: only rank zero starts a run.
        if not trainer.fast_dev_run:
            trainer.loggers = build_loggers(config, run_dir)
        if config.trainer.validate_first and ckpt_path is None:
            trainer.validate(module, data, verbose=False)
        trainer.fit(module, data, ckpt_path=ckpt_path)
        trainer.save_checkpoint(run_dir / "checkpoints" / "last.ckpt")
        if trainer.is_global_zero:
            report(config, run_dir, trainer)
    except SystemExit as error:
        # Lightning leaves with 0 after SIGTERM and with 1 after Ctrl+C.
        if trainer.received_sigterm:
            sys.exit(128 + signal.SIGTERM)
        if isinstance(error.__context__, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        raise
    except Exception:
        write_to_log_file("training failed", sys.exc_info())
        raise
    finally:
        finish_wandb(config.swanlab.finish_timeout_s)
        if not finish_swanlab(config.swanlab.finish_timeout_s):
            leave()


def checkpoint_to_resume(config: Config, run_dir: Path) -> Optional[str]:
    """Return what `Trainer.fit` goes on from: a requeued SLURM job's own checkpoint comes first."""
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    if SLURMEnvironment.detect() and any(run_dir.glob("hpc_ckpt_*.ckpt")):
        return "hpc"
    return config.ckpt_path


def describe(config: Config, module: Any, ckpt_path: Optional[str]) -> None:
    """Log which weights training starts from, and what of the model is trained."""
    from core.model import parameter_table

    if ckpt_path is not None:
        log.info("weights: those of the checkpoint that is resumed")
    elif module.load_report:
        log.info("weights: %s", module.load_report)
    elif config.model.architecture == "tiny":
        log.info("weights: random")
    else:
        log.warning(
            "weights: random, and %s is made to be fine-tuned: set model.checkpoint_path to its "
            "released weights",
            config.model.architecture,
        )
    log.info("parameters:\n%s", parameter_table(module.model))


def write_to_log_file(message: str, exc_info: Any) -> None:
    """Write an error to ``train.log`` alone: Hydra prints it on the console."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), exc_info)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def find_unused_parameters_in_ddp() -> None:
    """Make Lightning's ``ddp``, which it also chooses by itself, work for SAM 2.

    Which parameters get a gradient depends on the prompts, so plain DDP fails on the second step.
    """
    from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

    StrategyRegistry.register(
        "ddp", DDPStrategy, override=True, start_method="popen", find_unused_parameters=True
    )


def leave() -> None:
    """End the process at once: threads that a logger left behind would keep it waiting."""
    error = sys.exc_info()[1]
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else status
    elif error is not None:
        traceback.print_exception(error)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def trainer_arguments(config: TrainerConfig) -> dict[str, Any]:
    """Return the fields that are Lightning's own."""
    arguments = dataclasses.asdict(config)
    for name in OWN_TRAINER_FIELDS:
        del arguments[name]
    return arguments


def report(config: Config, run_dir: Path, trainer: Any) -> None:
    """Export the weights and say where everything is."""
    from core.export import export_checkpoint, loading_code

    checkpoints = {"last": run_dir / "checkpoints" / "last.ckpt"}
    if trainer.checkpoint_callback.best_model_path:
        checkpoints["best"] = Path(trainer.checkpoint_callback.best_model_path)
    lines = [f"run         {run_dir}"]
    for name, checkpoint in checkpoints.items():
        weights = export_checkpoint(checkpoint, run_dir / "weights" / f"{name}.pt")
        lines.append(f"{name:<11} {checkpoint}, for Meta's predictor: {weights}")
    # The best ones, where anything was validated.
    code = run_dir / "weights" / "load.py"
    code.write_text(f"{loading_code(weights, config.model)}\n")
    lines.append(f"load them   {code}")
    iou = trainer.callback_metrics.get("val/iou")
    if iou is not None:
        lines.append(f"val/iou     {float(iou):.3f}")
    if any(getattr(logger, "mode", None) == "local" for logger in trainer.loggers):
        pictures = f"{config.swanlab.log_dir}; look at them with: make dashboard"
        if config.swanlab.log_dir != "swanlog":
            pictures += f" SWANLOG={config.swanlab.log_dir}"
        lines.append(f"pictures    {pictures}")
    print("\n" + "\n".join(lines))


register_schema()

if __name__ == "__main__":
    explain_typos(sys.argv[1:])
    main()
