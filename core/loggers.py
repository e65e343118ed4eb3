"""Builds the loggers of a run and closes them in bounded time."""

import logging
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from .config import Config, SwanLabConfig
from .guarded_logger import GuardedLogger

log = logging.getLogger(__name__)

_abandoned: list[threading.Thread] = []  # calls into SwanLab or W&B that did not return in time


class GuardedWandb(GuardedLogger, WandbLogger):
    """W&B's logger; a service that goes away costs no training."""

    service = "W&B"


class GuardedTensorBoard(GuardedLogger, TensorBoardLogger):
    """TensorBoard's logger; a full disk costs no training."""

    service = "TensorBoard"


class GuardedCSV(GuardedLogger, CSVLogger):
    """Lightning's CSV files; a full disk costs no training."""

    service = "The CSV file of metrics"


def build_loggers(config: Config, run_dir: Path) -> list[Logger]:
    """Build the loggers that ``logger`` names; one that cannot start never stops the training.

    SwanLab that cannot be reached online keeps its run locally; a logger that cannot start at all
    is replaced by CSV files in the run directory. Either is said in one warning. On other ranks
    than zero nothing is started.

    Args:
        config: The whole configuration.
        run_dir: Where file-based loggers write.
    """
    loggers: list[Logger] = []
    needs_csv = False
    for name in config.logger:
        if name == "csv":
            needs_csv = True
            continue
        # SwanLab draws its run's name and colour: the training is the same whatever the logger.
        random_state = random.getstate()
        try:
            loggers.append(_build(name, config, run_dir))
        except Exception as error:
            log.warning(
                "logger=%s cannot start (%s); metrics are written to %s instead; pictures are not "
                "logged",
                name,
                _in_one_line(error),
                run_dir / "csv",
            )
            needs_csv = True
        finally:
            random.setstate(random_state)
    if needs_csv:
        loggers.append(_build_csv(run_dir))
    return loggers


def takes_pictures(config: Config, loggers: list[Logger]) -> bool:
    """Return whether anything does: the run book, W&B, TensorBoard, or SwanLab if not disabled."""
    return config.visualizations.run_book or any(
        isinstance(logger, (WandbLogger, TensorBoardLogger))
        or getattr(logger, "mode", "disabled") != "disabled"  # SwanLab's
        for logger in loggers
    )


def _build(name: str, config: Config, run_dir: Path) -> Logger:
    if name == "swanlab":
        return open_run_or_local(config.swanlab, run_dir)
    if name == "wandb":
        return _build_wandb(config.swanlab, run_dir)
    return GuardedTensorBoard(run_dir, name="tensorboard", version="")


def _build_csv(run_dir: Path) -> Logger:
    """Return a logger with a file of its own: `CSVLogger` deletes the one of an earlier start."""
    starts = len(list((run_dir / "csv").rglob("metrics.csv")))
    return GuardedCSV(run_dir, name="csv", version=str(starts) if starts else "")


def _build_wandb(config: SwanLabConfig, run_dir: Path) -> Logger:
    logger = GuardedWandb(project=config.project, save_dir=run_dir)
    # Otherwise Lightning starts the run, in `fit`, where an error ends the training.
    _start_run(logger, "wandb-start", config.start_timeout_s)
    return logger


class _WithRun(Protocol):
    """A logger that starts its run when its ``experiment`` is first asked for."""

    @property
    def experiment(self) -> Any: ...


def _start_run(logger: _WithRun, name: str, timeout_s: float) -> None:
    """Have a logger start its run, away from the main thread; raise what it raises."""
    if _call(lambda: logger.experiment, name, timeout_s) is None:
        raise TimeoutError(f"no answer within swanlab.start_timeout_s={timeout_s:g}")


def open_run_or_local(config: SwanLabConfig, run_dir: Path) -> Logger:
    """Start SwanLab's run; one that cannot be reached online is kept locally.

    Args:
        config: The SwanLab section.
        run_dir: Names the run.
    """
    import swanlab

    if config.mode != "online":
        return open_run(config, run_dir, config.mode)
    try:
        _check_answers(swanlab.Settings().api_host, config.start_timeout_s)
        return open_run(config, run_dir, "online")
    except Exception as error:
        if _is_stuck():
            raise  # a start that hangs keeps SwanLab's lock
        if swanlab.has_run():
            finish_swanlab(config.finish_timeout_s, state="crashed", error=str(error))
        log.warning(
            "swanlab.mode=online cannot start (%s); the run is stored locally in %s",
            _in_one_line(error),
            config.log_dir,
        )
        return open_run(config, run_dir, "local")


def open_run(config: SwanLabConfig, run_dir: Path, mode: str) -> Logger:
    """Start SwanLab's run on rank zero, in bounded time.

    Args:
        config: The SwanLab section.
        run_dir: Names the run.
        mode: Stands for that of `config`.
    """
    import swanlab

    from .swanlab_logger import BoundedSwanLabLogger, keep_silent

    keep_silent()
    logger = BoundedSwanLabLogger(
        mode,
        close_failed=lambda status: finish_swanlab(
            config.finish_timeout_s, state="crashed", error=status
        ),
        project=config.project,
        workspace=config.workspace,
        experiment_name=config.experiment_name or "_".join(run_dir.parts[-2:]),
        description=config.description,
        log_dir=config.log_dir,
        tags=list(config.tags) if config.tags else None,
        id=config.id,
        save_dir=str(run_dir),
        settings=swanlab.Settings(
            # A question at the terminal would stop a run that nobody watches.
            interactive=False,
            **({"probe": {"git": False}} if _remote_holds_secret() else {}),
        ),
    )
    # Away from the main thread SwanLab installs no handler for Ctrl+C, which would close the run
    # before the pictures still waiting are logged.
    _start_run(logger, "swanlab-start", config.start_timeout_s)
    return logger


@rank_zero_only
def _check_answers(host: str, timeout_s: float) -> None:
    """Raise ConnectionError when a server does not answer, whatever its answer is.

    SwanLab itself would wait for minutes, and could not be used locally meanwhile.
    """
    import requests

    deadline = time.monotonic() + min(timeout_s, 10.0)
    while True:
        remaining = deadline - time.monotonic()
        try:
            requests.get(host, timeout=max(remaining, 0.1), stream=True).close()
            return
        except requests.exceptions.RequestException as error:
            if remaining <= 1:
                reason = f"{host} does not answer ({type(error).__name__})"
                raise ConnectionError(reason) from None
            time.sleep(min(1.0, remaining))


def _remote_holds_secret() -> bool:
    """Return whether git's remote is an address with a password, which SwanLab would store."""
    try:
        command = ["git", "config", "--get", "remote.origin.url"]
        remote = subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return re.search(r"https?://[^/\s]+@", remote) is not None


def finish_wandb(timeout_s: float) -> None:
    """Close W&B's run, if there is one, so that the next job of a sweep starts one of its own.

    Args:
        timeout_s: Seconds to wait for it at most.
    """
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        _finish("W&B", wandb.finish, timeout_s)


def finish_swanlab(timeout_s: float, **how: Any) -> bool:
    """Close SwanLab's run, if there is one, and wait at most `timeout_s` seconds for it.

    SwanLab waits without limit for a server that is down.

    Args:
        timeout_s: Seconds.
        **how: Arguments of ``swanlab.finish``.

    Returns:
        False when this call, or one before it (W&B's too), was given up and still runs; what had
        not been sent by then stays in the logger's own files.
    """
    swanlab = sys.modules.get("swanlab")
    if swanlab is not None and swanlab.has_run():
        run = swanlab.get_run()
        if hasattr(run, "_is_main_thread"):
            # finish() would put the interrupt handler back, which only the main thread may do.
            run._is_main_thread = False
        _finish("SwanLab", lambda: swanlab.finish(**how), timeout_s)
    return not _is_stuck()


def _finish(name: str, finish: Callable[[], Any], timeout_s: float) -> None:
    try:
        finished = _call(lambda: finish() or True, f"{name}-finish", timeout_s)
    except Exception as error:
        log.warning("%s could not close its run cleanly (%s)", name, _in_one_line(error))
    else:
        if finished is None:
            log.warning(
                "%s did not close its run within swanlab.finish_timeout_s=%g; data not "
                "yet sent stays in its local files",
                name,
                timeout_s,
            )


def _is_stuck() -> bool:
    return any(thread.is_alive() for thread in _abandoned)


def _call(function: Callable[[], Any], name: str, timeout_s: float) -> Any:
    """Return the result of a call, or None after `timeout_s` seconds; raise what it raises."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        _abandoned.append(thread)
        return None
    if errors:
        if isinstance(errors[0], Exception):
            raise errors[0]
        raise RuntimeError(_in_one_line(errors[0])) from errors[0]
    return results[0]


def _in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
