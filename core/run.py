"""What surrounds `Trainer.fit` in ``train.py``: how it starts, what it says, and how it ends."""

import atexit
import contextlib
import dataclasses
import functools
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional, Union

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from .callbacks import OutOfMemory
from .checks import UserError, one_of, require
from .config import Config, DataConfig, ModelConfig, TrainerConfig, sources_of, to_config
from .console import short_path, table, to_file
from .devices import accelerators, check_accelerator
from .export import export_checkpoint, loading_code
from .loggers import takes_pictures
from .meters import Meters
from .model.freezing import parameter_table, reaches_images
from .model.weights import CheckpointError
from .out_of_memory import is_lost_rank
from .report import COMPARISON, write_comparison
from .val_prompts import prompts_of_images, val_prompts_every, val_prompts_of
from .visualization.store import FOLDER, PAGE, SETTINGS
from .words import counted

log = logging.getLogger(__name__)

# What ends the ranks that wait for this one, once it has failed.
_KILLS: list[Callable[[], None]] = []

_BELOW = f"\n{'':<11} "  # in a table, where a value has several lines
OWN_TRAINER_FIELDS = (
    "validate_first", "val_prompts", "val_prompts_every", "early_stopping_patience",
    "checkpoint_every_n_steps", "on_out_of_memory", "max_skipped_in_a_row", "ema_decay",
)  # fmt: skip


def trainer_arguments(config: TrainerConfig) -> dict[str, Any]:
    """Return the fields that are Lightning's own.

    Algorithms are deterministic on a CPU unless the user decided: it costs 1 %, and without it the
    sums of several threads depend on what else the machine does. On CUDA PyTorch has no
    deterministic backward of the ``interpolate`` that SAM 2 uses.
    """
    arguments = dataclasses.asdict(config)
    for name in OWN_TRAINER_FIELDS:
        del arguments[name]
    if config.deterministic is None and _runs_on_cpu(config):
        arguments["deterministic"] = True
    return arguments


def _runs_on_cpu(config: TrainerConfig) -> bool:
    found = accelerators()
    if config.accelerator == "auto":
        return not (found["gpu"] or found["tpu"])
    return config.accelerator == "cpu"


def check_devices(config: TrainerConfig) -> None:
    """Raise UserError for an accelerator that is not there, or a strategy that does not exist."""
    check_accelerator(config.accelerator, accelerators())
    one_of("auto", *StrategyRegistry.available_strategies()).check(
        "trainer.strategy", config.strategy
    )


def check_skipping(config: TrainerConfig, world_size: int) -> None:
    """Raise UserError where one rank would leave out a step that others take."""
    if config.on_out_of_memory == "skip" and world_size > 1:
        raise UserError(
            f"trainer.on_out_of_memory=skip needs one process, got {world_size}: where one rank "
            "skips a batch the averages of the others are wrong; use trainer.on_out_of_memory=end"
        )


def check_images(config: ModelConfig, model: torch.nn.Module) -> None:
    """Raise UserError for settings that teach nothing where every training clip has one frame.

    Args:
        config: The model section.
        model: What is trained.
    """
    require(
        config.prompt_type != "mask",
        "model.prompt_type",
        config.prompt_type,
        "point, bbox or mixed where every training clip has one frame: a mask of an image is the "
        "answer itself",
    )
    if not reaches_images(model):
        adapters = config.trainable_modules is None
        name = "lora.modules" if adapters else "trainable_modules"
        value = ",".join(config.lora.modules if adapters else config.trainable_modules)
        raise UserError(
            f"model.{name}={value} reaches the memory alone, which clips of one frame never use: "
            f"name more, for example model.{name}=decoder_memory"
        )


def check_interval(config: TrainerConfig, num_batches: int) -> None:
    """Raise UserError for an interval between validations that no epoch is long enough for.

    Args:
        config: The trainer section.
        num_batches: Batches per epoch of one process.
    """
    interval = config.val_check_interval
    num_batches = _limited("limit_train_batches", config.limit_train_batches, num_batches)
    counted = config.check_val_every_n_epoch is not None and isinstance(interval, int)
    if counted and interval > num_batches and not config.fast_dev_run:
        raise UserError(
            f"trainer.val_check_interval={interval} is more than the {num_batches} training "
            f"batches of an epoch: use trainer.val_check_interval=null to validate at its end, or "
            "trainer.check_val_every_n_epoch=null to count batches across epochs"
        )


def check_validation(config: TrainerConfig, num_batches: int) -> None:
    """Raise UserError for a share of the validation batches that is none of them.

    Args:
        config: The trainer section.
        num_batches: Validation batches of one process.
    """
    _limited("limit_val_batches", config.limit_val_batches, num_batches)


def _limited(name: str, limit: Union[int, float, None], num_batches: int) -> int:
    """Return how many batches a limit leaves, which is a share if it is a float."""
    if not isinstance(limit, float) or limit > 1:
        return num_batches if limit is None else min(num_batches, int(limit))
    if limit > 0 and num_batches > 0 and int(num_batches * limit) == 0:
        raise UserError(
            f"trainer.{name}={limit:g} is less than one of "
            f"{counted(num_batches, 'batch', 'batches')}: expected a larger share, or a number of "
            "batches, such as 1"
        )
    return int(num_batches * limit)


@contextlib.contextmanager
def lightning_refuses(config: TrainerConfig) -> Iterator[None]:
    """Have what Lightning says of settings when its Trainer is built end in one sentence."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
        own, default = dataclasses.asdict(config), dataclasses.asdict(TrainerConfig())
        named = ", ".join(
            f"trainer.{name}={own[name]}"
            for name in ("accelerator", "devices", "num_nodes", "strategy", "precision")
            if own[name] != default[name]
        )
        said = " ".join(str(error).split()) or type(error).__name__
        for name in ("devices", "num_nodes"):
            said = said.replace(f"`{name}=", f"`trainer.{name}=")
        raise UserError(f"{named}: {said}" if named else said) from error


def leave_messages_to_hydra() -> None:
    """Have Lightning's messages come once, through Hydra's handlers."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()


def find_unused_parameters_in_ddp() -> None:
    """Make Lightning's ``ddp``, which it also chooses by itself, work for SAM 2.

    Which parameters get a gradient depends on the prompts, so plain DDP fails on the second step.
    """
    StrategyRegistry.register(
        "ddp", DDPStrategy, override=True, start_method="popen", find_unused_parameters=True
    )


def checkpoint_to_resume(config: Config, run_dir: Path) -> Optional[str]:
    """Return what `Trainer.fit` goes on from: a requeued SLURM job's own checkpoint comes first."""
    if SLURMEnvironment.detect() and any(run_dir.glob("hpc_ckpt_*.ckpt")):
        return "hpc"
    return config.ckpt_path


def store_settings(config: Config, run_dir: Path) -> None:
    """Write the settings that differ from the defaults, for the run book: name, value, default."""
    if not GlobalHydra.instance().is_initialized():
        return
    values, defaults = (
        dict(_flat(dataclasses.asdict(section)))
        for section in (config, to_config(hydra.compose("config")))
    )
    # what a data set does not set it has from `data`
    defaults |= {
        name: values.get(f"data.{name.partition('].')[2]}")
        for name in values
        if name.startswith("data.sources[")
    }
    rows = [
        [name, json.dumps(value), json.dumps(defaults.get(name))]
        for name, value in values.items()
        if value != defaults.get(name)
    ]
    (run_dir / SETTINGS).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif name == "sources" and value:
            for i, source in enumerate(value):
                yield from _flat(source, f"{prefix}{name}[{i}].")
        else:
            yield f"{prefix}{name}", value


def describe(
    config: Config, run_dir: Path, module: Any, data: Any, trainer: Any, ckpt_path: Optional[str]
) -> None:
    """Say what is about to be trained on what, and where it is written.

    Args:
        config: The whole configuration.
        run_dir: Where the run is written.
        module: The module that is trained.
        data: Its data, set up.
        trainer: The Trainer.
        ckpt_path: What is resumed, or None.
    """
    rows = [
        ("data", _data(config, data, trainer.world_size)),
        ("model", _model(config, module.model)),
        ("weights", _weights(module, ckpt_path)),
        *_validation(config, data.validates_on_images_alone),
        ("device", _device(config.trainer, trainer)),
        ("run", str(short_path(run_dir))),
    ]
    log.info("%s", table(rows))
    to_file(f"parameters:\n{parameter_table(module.model)}")
    random = ckpt_path is None and not module.load_report
    if random and config.model.architecture != "tiny":
        log.warning(
            "the weights are random, but %s is meant to be fine-tuned from released weights: set "
            "model.checkpoint_path",
            config.model.architecture,
        )


def _data(config: Config, data: Any, num_ranks: int) -> str:
    side, counts = config.model.image_size, data.amounts()
    if not sources_of(config.data):
        return _data_set(config.data, counts[None], side)
    batches = data.batches_per_epoch(num_ranks)
    total, lines = data.num_train_batches(num_ranks), []
    for source in sources_of(config.data):
        name = str(source.name)
        count, said = batches.get(name, 0), _data_set(source, counts[name], side)
        lines.append(f"{name}: {said}, {count} of them per epoch ({count / total:.0%})")
    lines.append(f"an epoch has {total} batches, each of one data set")
    return _BELOW.join(lines)


def _data_set(data: DataConfig, amount: str, side: int) -> str:
    root = f" in {data.root}" if data.root else ""
    frames = "frame" if data.num_frames == 1 else "frames"
    return (
        f"{data.source}{root}: {amount}{_BELOW}"
        f"{data.num_frames} {frames} of {side} px, batches of {data.batch_size}"
    )


def _model(config: Config, model: torch.nn.Module) -> str:
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    share = "all trained" if trained == total else f"{trained / 1e6:.1f} M of them trained"
    return f"{config.model.architecture}, {total / 1e6:.1f} M parameters, {share}"


def _weights(module: Any, ckpt_path: Optional[str]) -> str:
    if ckpt_path is not None:
        return "from the checkpoint that is resumed"
    return module.load_report or "random"


def _validation(config: Config, on_images: bool) -> list[tuple[str, str]]:
    """Say what validation under several prompt types costs, where there are several."""
    prompt_types = val_prompts_of(config)
    first, *others = prompts_of_images(prompt_types) if on_images else prompt_types
    if not others or config.trainer.limit_val_batches == 0:
        return []
    every = val_prompts_every(config)
    when = "each time" if every == 1 else f"every {every} validations and at the last"
    types = " and ".join(others)
    said = (
        f"under {first} prompts, which val/iou is of; {when}{_BELOW}under {types} prompts too: "
        "one more validation per further type"
    )
    return [("validation", said)]


def _device(config: TrainerConfig, trainer: Any) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)
    if trainer.world_size > 1:
        name = f"{trainer.world_size} processes, each on {name}"
    if device.type == "cpu":
        name += f" with {counted(torch.get_num_threads(), 'thread')}"
    return name if config.precision == "32-true" else f"{name}, {config.precision}"


def warn_of_missing_pictures(config: Config, loggers: list[Logger]) -> None:
    """Say at the start that the pictures asked for will go nowhere; ``strict`` ends the run."""
    if not config.visualizations.enabled or takes_pictures(config, loggers):
        return
    said = "visualizations.enabled=true, but no logger takes pictures: use logger=swanlab, wandb or"
    if config.visualizations.strict:
        sys.exit(f"error: {said} tensorboard (visualizations.strict=true)")
    log.warning("%s tensorboard; this run will have no pictures", said)


def say_where_to_watch(config: Config, loggers: list[Logger]) -> None:
    """Say where the curves and pictures of a run appear while it trains."""
    rows = _where_logged(loggers, config.swanlab.log_dir)
    if rows:
        log.info("%s", table(rows))


def report(config: Config, run_dir: Path, trainer: Any) -> None:
    """Export the weights, and say what was reached, where everything is and what comes next."""
    module = trainer.lightning_module
    checkpoints = {"last": run_dir / "checkpoints" / "last.ckpt"}
    best = trainer.checkpoint_callback.best_model_path
    if best and Path(best).is_file():
        checkpoints["best"] = Path(best)
    elif best:
        log.warning("%s, the best checkpoint, does not exist any more: it is not exported", best)
    exported = _export(config, checkpoints, run_dir / "weights")
    rows = [*_reached(module, trainer), *_measured(trainer)]
    rows += [("run", str(short_path(run_dir))), *exported]
    page = Path(config.visualizations.run_dir or run_dir) / PAGE
    if config.visualizations.run_book and config.visualizations.enabled and page.is_file():
        rows.append(("run book", str(short_path(page))))
    rows += _where_logged(trainer.loggers, config.swanlab.log_dir)
    if config.visualizations.enabled and not takes_pictures(config, trainer.loggers):
        rows.append(("pictures", "none: no logger of this run takes pictures"))
    log.info("\n%s", table(rows))
    _warn_of_what_was_not_learnt(module, trainer)


def _reached(module: Any, trainer: Any) -> list[tuple[str, str]]:
    iou = trainer.callback_metrics.get("val/iou")
    if iou is None:
        return []
    rows = [("val/iou", f"{float(iou):.3f} after {trainer.global_step} steps")]
    stopping = trainer.early_stopping_callback
    if stopping is not None and stopping.wait_count >= stopping.patience:
        validations = counted(stopping.wait_count, "validation")
        rows.append(("  stopped", f"early: it did not rise in {validations}"))
    if module.iou_before is not None:
        rows.append(("  before", f"{module.iou_before:.3f}"))
    if module.iou_copy is not None:
        rows.append(
            ("  copying", f"{module.iou_copy:.3f}, what leaving the prompt's mask in place scores")
        )
    return rows


def _measured(trainer: Any) -> list[tuple[str, str]]:
    meters = (callback for callback in trainer.callbacks if isinstance(callback, Meters))
    rows = [row for callback in meters for row in callback.said_at_the_end(trainer)]
    skipper = trainer.lightning_module.skipper
    if skipper is not None and skipper.total:
        rows.append(
            ("skipped", f"{counted(skipper.total, 'batch', 'batches')} that ran out of memory")
        )
    return rows


def end_in_one_sentence(error: Exception, trainer: Any) -> None:
    """Raise UserError where no traceback is wanted: memory ran out, or another rank has ended."""
    said = next(
        (callback.said for callback in trainer.callbacks if isinstance(callback, OutOfMemory)), None
    )
    if said is None and trainer.world_size > 1 and is_lost_rank(error):
        said = f"rank {trainer.global_rank} ends because another one did: see what that one says"
    if said is not None:
        leave_process_group_at_exit()
        _end_other_ranks_at_exit(trainer)
        raise UserError(said) from error


def _end_other_ranks_at_exit(trainer: Any) -> None:
    """End the ranks that this process started, which may wait for it for ever in a collective.

    Not earlier: Lightning kills the process that started a rank when that rank fails.
    """
    kill = getattr(trainer.strategy.launcher, "kill", None)
    if kill is not None:
        _KILLS.append(functools.partial(kill, getattr(signal, "SIGKILL", signal.SIGTERM)))
        atexit.register(_end_other_ranks)


def _end_other_ranks() -> None:
    while _KILLS:
        _KILLS.pop()()


def _warn_of_what_was_not_learnt(module: Any, trainer: Any) -> None:
    if trainer.global_step == module.resumed_step:
        log.warning(
            "nothing was trained: the resumed checkpoint is already at step %d; raise "
            "trainer.max_steps or trainer.max_epochs to train further",
            trainer.global_step,
        )
    iou = trainer.callback_metrics.get("val/iou")
    if iou is not None and module.iou_copy is not None and iou < module.iou_copy:
        log.warning(
            "val/iou %.3f is below the %.3f that leaving the prompt's mask in place scores: the "
            'model has not learnt to track; see "Objects melt together" in docs/faults.md',
            iou,
            module.iou_copy,
        )


def compare_runs_of_sweep(sweep_dir: Path) -> None:
    """Write one page about the runs of a sweep that are done; a failure is only said."""
    books = sweep_dir.rglob(f"{FOLDER}/start-0001.json")
    runs = sorted((path.parent.parent for path in books), key=_in_order_of_numbers)
    if len(runs) < 2:
        return
    try:
        page = write_comparison(runs, sweep_dir / COMPARISON)
        log.info("runs compared  %s", page)
    except Exception as error:
        log.warning("the page that compares the runs of %s failed: %s", sweep_dir.name, error)


def _in_order_of_numbers(run_dir: Path) -> tuple[int, str]:
    return int(run_dir.name) if run_dir.name.isdigit() else sys.maxsize, str(run_dir)


def _export(config: Config, checkpoints: dict[str, Path], folder: Path) -> list[tuple[str, str]]:
    """Write the weights in each format; return what the end of the run says of them."""
    rows = []
    for name, checkpoint in checkpoints.items():
        said = str(short_path(checkpoint))
        if "meta" in config.export.formats:
            weights = export_checkpoint(checkpoint, folder / f"{name}.pt")
            said += f"\n{'':<11} for Meta's predictor: {short_path(weights)}"
        if "hf" in config.export.formats:
            weights = export_checkpoint(checkpoint, folder / name, "hf")
            said += f"\n{'':<11} for Hugging Face: {short_path(weights)}"
        if config.model.lora.rank is not None and config.model.checkpoint_path is not None:
            said += _adapters(checkpoint, folder / f"adapter_{name}.safetensors")
        rows.append((name, said))
    if "meta" in config.export.formats:
        # The best ones, where anything was validated.
        code = folder / "load.py"
        lines = loading_code(folder / f"{name}.pt", config.model, beside=True)
        code.write_text(f"{lines}\n")
        rows.append(("load with", str(short_path(code))))
    return rows


def _adapters(checkpoint: Path, path: Path) -> str:
    """Write the adapters alone; return what to say of them. A base that is gone is only said."""
    try:
        export_checkpoint(checkpoint, path, "adapters")
    except CheckpointError as error:
        log.warning("%s was not written: %s", path.name, error)
        return ""
    return f"\n{'':<11} adapters alone: {short_path(path)}"


def _where_logged(loggers: list[Logger], log_dir: str) -> list[tuple[str, str]]:
    rows = []
    for logger in loggers:
        mode = getattr(logger, "mode", None)
        if mode == "local":
            pictures = f"{log_dir}; view with: make dashboard"
            rows.append(
                ("pictures", pictures + ("" if log_dir == "swanlog" else f" SWANLOG={log_dir}"))
            )
        elif mode == "online":
            rows.append(("pictures", getattr(logger, "url", "")))
        elif isinstance(logger, CSVLogger):
            rows.append(("csv", str(short_path(Path(logger.log_dir) / "metrics.csv"))))
        elif isinstance(logger, TensorBoardLogger):
            command = f"tensorboard --logdir {Path(logger.log_dir)}"
            rows.append(("tensorboard", f"view with: {command}"))
    return rows


def say_how_to_go_on(run_dir: Path) -> None:
    """Say where a training that did not reach its end left what it had."""
    last = run_dir / "checkpoints" / "last.ckpt"
    last, run_dir = short_path(last), short_path(run_dir)
    lines = ["", f"run         {run_dir}"]
    if last.is_file():
        lines.append(f"resume with the same command plus ckpt_path={last}")
        lines.append(f"weights     python -m core.export {last}")
    log.info("%s", "\n".join(lines))


def write_to_log_file(message: str, exc_info: Any) -> None:
    """Write an error to ``train.log`` alone: Hydra prints it on the console."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), exc_info)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def signal_behind(error: SystemExit) -> Optional[int]:
    """Return the signal upon which Lightning ends the process, None for another end."""
    if isinstance(error, SIGTERMException):
        return signal.SIGTERM
    return signal.SIGINT if isinstance(error.__context__, KeyboardInterrupt) else None


def status_after_signal(signum: int, trainer: Any) -> int:
    """Return what the process ends with after an orderly end that a signal asked for.

    It is 0 for the ranks that Lightning started itself: upon any other status of theirs it kills
    rank zero, which may still have pictures to log.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if isinstance(environment, LightningEnvironment) and trainer.local_rank > 0:
        return 0
    return 128 + signum


def leave_process_group_at_exit() -> None:
    """Let the process leave the ranks' group, where there is one, before its interpreter ends.

    Gloo's threads hold the tensors of the last collective, and abort a process that ends before
    they let go of them (pytorch#190489); Lightning sees to this for NCCL alone. Not earlier than at
    the exit: the jobs of a sweep share their ranks.
    """
    if torch.distributed.is_available():
        atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def leave() -> None:
    """End the process at once: threads that a logger left behind would keep it waiting."""
    error = sys.exc_info()[1]
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else status
    elif error is not None:
        traceback.print_exception(error)
    _end_other_ranks()  # what is registered for the exit does not run
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
