"""Builds the loggers of a run and closes them in bounded time."""

import logging
import re
import subprocess
import threading
from pathlib import Path
from typing import Any, Optional

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from core.config import Config, SwanLabConfig

log = logging.getLogger(__name__)


def build_loggers(config: Config, run_dir: Path) -> list[Logger]:
    """Build the loggers that ``logger`` names; one that cannot start never stops the training.

    SwanLab that cannot be reached online keeps its run locally; a logger that cannot start at all
    is replaced by CSV files in the run directory. Either is said in one warning.

    Args:
        config: The whole configuration.
        run_dir: Where file-based loggers write.
    """
    loggers: list[Logger] = []
    for name in config.logger:
        try:
            loggers.append(_build(name, config, run_dir))
        except Exception as error:
            log.warning(
                "logger=%s cannot start (%s: %s); its metrics go to %s instead",
                name,
                type(error).__name__,
                error,
                run_dir / "csv",
            )
            if not any(isinstance(logger, CSVLogger) for logger in loggers):
                loggers.append(CSVLogger(run_dir, name="csv", version=""))
    return loggers


def _build(name: str, config: Config, run_dir: Path) -> Logger:
    if name == "swanlab":
        return _build_swanlab(config.swanlab, run_dir)
    if name == "wandb":
        return WandbLogger(project=config.swanlab.project, save_dir=run_dir)
    if name == "tensorboard":
        return TensorBoardLogger(run_dir, name="tensorboard", version="")
    return CSVLogger(run_dir, name="csv", version="")


def _build_swanlab(config: SwanLabConfig, run_dir: Path) -> Logger:
    import swanlab
    from swanlab.integration.pytorch_lightning import SwanLabLogger

    class BoundedSwanLabLogger(SwanLabLogger):
        """SwanLab's logger, whose end cannot hang on a server that does not answer."""

        @rank_zero_only
        def finalize(self, status: Optional[str] = None) -> None:
            # "finished" is what Lightning says before a SLURM requeue, where training still logs.
            if status not in (None, "success", "finished"):
                finish_swanlab(config.finish_timeout_s, state="crashed", error=status)

    def start(mode: str) -> BoundedSwanLabLogger:
        logger = BoundedSwanLabLogger(
            project=config.project,
            workspace=config.workspace,
            experiment_name=config.experiment_name or "_".join(run_dir.parts[-2:]),
            description=config.description,
            log_dir=config.log_dir,
            mode=mode,
            tags=list(config.tags) if config.tags else None,
            id=config.id,
            save_dir=str(run_dir),
            settings=swanlab.Settings(probe={"git": False}) if _remote_holds_secret() else None,
        )
        _ = logger.experiment  # starts the run, on rank zero
        return logger

    try:
        return start(config.mode)
    except Exception as error:
        if config.mode != "online":
            raise
        if swanlab.has_run():
            finish_swanlab(config.finish_timeout_s, state="crashed", error=str(error))
        log.warning(
            "swanlab.mode=online cannot start (%s: %s); the run is kept locally in %s",
            type(error).__name__,
            error,
            config.log_dir,
        )
        return start("local")


def _remote_holds_secret() -> bool:
    """Return whether git's remote is an address with a password, which SwanLab would store."""
    try:
        command = ["git", "config", "--get", "remote.origin.url"]
        remote = subprocess.run(command, capture_output=True, text=True, timeout=5).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return re.search(r"https?://[^/\s]+@", remote) is not None


def finish_wandb() -> None:
    """Close W&B's run, so that the next job of a sweep starts one of its own."""
    import wandb

    if wandb.run is not None:
        wandb.finish()


def finish_swanlab(timeout_s: float, **how: Any) -> bool:
    """Close SwanLab's run, if there is one, and wait at most `timeout_s` seconds for it.

    SwanLab waits without limit for a server that is down.

    Returns:
        False when it was given up; what SwanLab had not sent by then stays in its own files.
    """
    import swanlab

    if not swanlab.has_run():
        return True
    run = swanlab.get_run()
    if hasattr(run, "_is_main_thread"):
        # finish() would put the interrupt handler back, which only the main thread may do.
        run._is_main_thread = False
    errors: list[BaseException] = []

    def finish() -> None:
        try:
            swanlab.finish(**how)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=finish, name="swanlab-finish", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        log.warning(
            "SwanLab did not close its run within swanlab.finish_timeout_s=%g; what it had not "
            "sent stays in its log_dir",
            timeout_s,
        )
        return False
    if errors:
        log.warning("SwanLab could not close its run cleanly: %s", errors[0])
        return False
    return True
