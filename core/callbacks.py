"""What happens around training besides the pictures: checkpoints, stopping, words at an end."""

import logging
import signal
import threading
from pathlib import Path
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from .checks import UserError
from .config import Config, TrainerConfig
from .console import short_path
from .memory import held_memory, kind_of_memory, peak_memory
from .meters import Meters
from .out_of_memory import Change, changes_of, is_out_of_memory
from .progress import Progress

log = logging.getLogger(__name__)

# As many changes are named where memory runs out.
_NUM_CHANGES = 3


class ValidateLastStep(Callback):
    """Validates the final weights, also where ``val_check_interval`` would not."""

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Ask Lightning to stop after the last batch: it validates before it does."""
        last_step = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        max_epochs = trainer.max_epochs
        last_epoch = max_epochs not in (None, -1) and trainer.current_epoch + 1 >= max_epochs
        if last_step or (last_epoch and trainer.is_last_batch):
            trainer.should_stop = True
            if (trainer.check_val_every_n_epoch or 1) > 1:
                trainer.check_val_every_n_epoch = None  # it may end between two of those epochs


class AnswerSignalsTogether(Callback):
    """Answers SIGTERM and SLURM's requeue signal before the same batch on all ranks.

    Lightning's own handlers take part in collectives right where the signal comes, when another
    rank may be in a different one: both then wait for ever.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._received: set[int] = set()

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Replace Lightning's handlers, which are there by now and gone after the run."""
        self._listen(trainer)

    def on_validation_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Do the same where validation comes first."""
        self._listen(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Answer what any rank received."""
        self._answer(trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Answer what any rank received."""
        self._answer(trainer)

    def _listen(self, trainer: pl.Trainer) -> None:
        if trainer.world_size == 1 or threading.current_thread() is not threading.main_thread():
            return
        for signum in _signals(trainer):
            handler = signal.getsignal(signum)
            if handler != self._note:
                self._handlers[signum] = handler
                signal.signal(signum, self._note)

    def _note(self, signum: int, frame: Any) -> None:
        self._received.add(signum)

    def _answer(self, trainer: pl.Trainer) -> None:
        if trainer.world_size == 1:
            return
        signals, strategy = _signals(trainer), trainer.strategy
        told = set(self._received)  # another one may come while the ranks tell each other
        flags = torch.tensor([int(signum in told) for signum in signals])
        by_any = strategy.reduce(flags.to(strategy.root_device), reduce_op="sum").tolist()
        self._received -= told
        for signum, count in zip(signals, by_any, strict=True):
            if count and signum == signal.SIGTERM:
                raise SIGTERMException
            if count:
                self._handlers[signum](signum, None)


def _signals(trainer: pl.Trainer) -> list[int]:
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        requeue = environment.requeue_signal
        return [signal.SIGTERM] if requeue is None else [requeue, signal.SIGTERM]
    return [signal.SIGTERM]


class _Checkpoint(ModelCheckpoint):
    @property
    def state_key(self) -> str:
        """Return Lightning's own key, under which checkpoints have always held this state."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)


class LastCheckpoint(_Checkpoint):
    """Written where an optimizer step ends, never between the batches that make up one.

    Checkpoints hold no gradients: a training that goes on from the middle of a step would lose
    those of the batches before. After a validation in the middle it waits for the step's end.
    """

    _in_step = _waits = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Write what waits, or what is due, if this batch was a step's last one."""
        num_batches = args[-1] + 1
        is_last = num_batches % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        self._in_step = not is_last
        if self._in_step:
            return
        if self._waits:
            self._waits = False
            super().on_validation_end(trainer, pl_module)
        super().on_train_batch_end(trainer, pl_module, *args)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write, or wait for the end of the step."""
        if self._in_step:
            self._waits = True
        else:
            super().on_validation_end(trainer, pl_module)


class BestCheckpoint(_Checkpoint):
    """The best of the whole training, also where it was resumed in another folder.

    Lightning's own forgets the score then, so that the next validation counts as the best. The file
    stays where it is. Where it is gone, and not beside the resumed checkpoint either, the best from
    now on counts.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over path and score, as Lightning does where the folder is the same."""
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look for the file of the earlier best."""
        super().on_train_start(trainer, pl_module)
        path, score = self.best_model_path, self.best_model_score
        if not path or self.file_exists(path, trainer):
            return
        beside = str(Path(trainer.ckpt_path or "").with_name(Path(path).name))
        self.best_k_models.clear()
        self.best_model_path = self.kth_best_model_path = ""
        if score is not None and trainer.ckpt_path and self.file_exists(beside, trainer):
            self.best_k_models[beside] = score
            self.best_model_path = self.kth_best_model_path = beside
            return
        self.best_model_score = None
        if trainer.is_global_zero:
            log.warning(
                "%s, the best checkpoint so far, does not exist any more: the best one from now on "
                "counts",
                path,
            )


class OutOfMemory(Callback):
    """Notes where memory ran out, and what would save some.

    Args:
        config: The whole configuration.
        last: Where ``last.ckpt`` is, if it has been written.

    Attributes:
        said: What to tell the user, None as long as memory sufficed.
    """

    def __init__(self, config: Config, last: Path) -> None:
        self.said: Optional[str] = None
        self._config, self._last = config, last
        self._held: Optional[float] = None

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Note what is held before the first step."""
        self._held = held_memory(trainer.strategy.root_device)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Note what happened, while the trainer still knows where it was."""
        if is_out_of_memory(exception):
            self.said = self._sentence(trainer)

    def _sentence(self, trainer: pl.Trainer) -> str:
        device, resumes = trainer.strategy.root_device, self._last.is_file()
        validating = trainer.validating or trainer.sanity_checking
        where = "a validation" if validating else f"training step {trainer.global_step + 1}"
        if trainer.world_size > 1:
            where += f" of rank {trainer.global_rank}"
        peak = peak_memory(device)
        taken = "" if peak is None else f" at a peak of {peak:.2f} GiB {kind_of_memory(device)}"
        needed = None if peak is None or self._held is None else max(0.0, peak - self._held)
        changes = changes_of(self._config, validating, resumes)[:_NUM_CHANGES]
        listed = ", ".join(_say(change, needed) for change in changes)
        how = f"go on with the same command plus ckpt_path={short_path(self._last)} and one of them"
        if not resumes:
            how = "start again with the same command plus one of them"
        return (
            f"out of memory in {where}{taken}; the cheapest changes: {listed}; {how}; python -m "
            "core.plan with the same settings says what fits"
        )


def _say(change: Change, needed: Optional[float]) -> str:
    # The step that failed was not at its peak yet: what it would have needed is not known.
    saves = f"saves about {100 * change.saves:.0f} %"
    if needed is not None and needed * change.saves >= 0.01:
        saves += f", {needed * change.saves:.2f} GiB or more"
    return f"{change.overrides} ({saves}; {change.costs})"


def build_callbacks(
    config: TrainerConfig, checkpoint_dir: Path, has_logger: bool
) -> list[Callback]:
    """Return checkpoints (best by ``val/iou``, and last), meters, LR monitor, early stopping, bar.

    Args:
        config: The trainer section.
        checkpoint_dir: Where ``best-step*.ckpt`` and ``last.ckpt`` go.
        has_logger: Whether anything takes the learning rate.

    Raises:
        UserError: The installed Lightning cannot average weights.
    """
    # Without versions: a file left by an earlier start in the same folder is replaced, so that
    # last.ckpt is always the newest. ModelCheckpoint's own `save_last` would leave it alone when
    # a validation brought no better `val/iou`.
    callbacks: list[Callback] = [
        AnswerSignalsTogether(),
        ValidateLastStep(),
        Meters(),  # behind it: the last step reaches the loggers too
        BestCheckpoint(
            checkpoint_dir,
            filename="best-step{step}",
            monitor="val/iou",
            mode="max",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        ),
        LastCheckpoint(checkpoint_dir, filename="last", enable_version_counter=False),
    ]
    if config.ema_decay is not None:
        callbacks.append(average_weights(config.ema_decay))
    if config.checkpoint_every_n_steps is not None:
        callbacks.append(
            LastCheckpoint(
                checkpoint_dir,
                filename="last",
                every_n_train_steps=config.checkpoint_every_n_steps,
                enable_version_counter=False,
            )
        )
    if config.enable_progress_bar:
        callbacks.append(Progress())
    if has_logger:
        callbacks.append(LearningRateMonitor("step"))
    if config.early_stopping_patience is not None:
        # A validation without a value is one in which it did not rise.
        patience = config.early_stopping_patience
        callbacks.append(EarlyStopping("val/iou", 0.0, patience, mode="max", check_finite=False))
    return callbacks


def average_weights(decay: float) -> Callback:
    """Return the callback that averages the weights.

    Args:
        decay: See `AverageWeights`.

    Raises:
        UserError: The installed Lightning has none.
    """
    try:
        from .averaging import AverageWeights
    except ImportError as error:
        raise UserError(
            f"trainer.ema_decay={decay} needs Lightning 2.6 or newer, this is {pl.__version__}"
        ) from error
    return AverageWeights(decay)
