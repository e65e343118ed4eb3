"""What is wrong with a training, and what to change: rules on numbers that a validation knows.

Each rule is a function that looks at a `Case` and returns a `Fault` or None; `examine` asks all
of them. Nothing here touches a model: whoever has the numbers can ask.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from ..words import counted
from .outcomes import MERGED_IOU, AtDistance, Tracks, scored_tracks

# A share or a mean of fewer frames says nothing.
_MIN_FRAMES = 10
# Validations behind the first after which a training should have got somewhere.
_PATIENCE = 3
_MAX_DIAGNOSES = 100


@dataclass(frozen=True)
class Fault:
    """Something that is wrong.

    Attributes:
        name: Of the rule.
        sentence: What is wrong.
        evidence: The numbers that say so.
        advice: The settings to try.
    """

    name: str
    sentence: str
    evidence: str
    advice: str


@dataclass(frozen=True)
class Validation:
    """One validation of a run; NaN: not known.

    Attributes:
        step: Optimizer steps taken.
        iou: ``val/iou``.
        train_loss: Mean of the losses since the validation before that are numbers.
        num_bad_losses: How many were NaN or infinite.
    """

    step: int
    iou: float
    train_loss: float = math.nan
    num_bad_losses: int = 0


@dataclass(frozen=True)
class Baseline:
    """The first validation of a run.

    Attributes:
        step: Optimizer steps taken.
        iou: ``val/iou``.
        table: The metrics of all objects, as CSV.
        by_distance: IoU by frames since the last prompt.
    """

    step: int
    iou: float
    table: str
    by_distance: list[AtDistance]

    @staticmethod
    def of(plain: Mapping[str, Any]) -> "Baseline":
        """Return what ``dataclasses.asdict`` made plain."""
        return Baseline(
            **{**plain, "by_distance": [AtDistance(**each) for each in plain["by_distance"]]}
        )


@dataclass(frozen=True)
class Frames:
    """The N frames of scored objects that received no prompt, all objects in one row.

    Attributes:
        ious: [N], 1 where neither mask has a pixel.
        predicted_ious: [N], the model's own estimate, NaN where there is none.
        object_scores: [N] logits, likewise.
        gt_areas: [N] pixels of the ground truth.
        pred_areas: [N] pixels of the prediction.
        twin_ious: [N], highest IoU with another prediction of the video; NaN: there is no other.
        distances: [N] frames since the last prompt.
    """

    ious: np.ndarray
    predicted_ious: np.ndarray
    object_scores: np.ndarray
    gt_areas: np.ndarray
    pred_areas: np.ndarray
    twin_ious: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class Case:
    """What the rules look at; O scored objects.

    Attributes:
        history: All validations of the run, this one last.
        frames: Of this one.
        prompted_ious: [P] IoU on the frames that received a prompt and show the object.
        areas: [O] pixels of the ground truth, the median of the frames with the object.
        first_ious: [O] IoU on the first tracked frame, NaN where the object is not there.
        first_copied: [O] the same of a mask that stays where the prompt was: how far objects move.
        iou_copy: ``val/iou_copy``; None: not measured.
        image_size: Side of the model's frames in pixels.
        cell: Side of a cell of the model's features in pixels.
        lr: The peak of the learning rate.
        num_warmup_steps: Steps until it is reached.
        starts_random: Training started from random weights.
        has_random_memory: The memory has random weights that are not trained.
        image_encoder_lr: The peak of the image encoder's learning rate; None: `lr`.
    """

    history: Sequence[Validation]
    frames: Frames
    prompted_ious: np.ndarray
    areas: np.ndarray
    first_ious: np.ndarray
    first_copied: np.ndarray
    iou_copy: Optional[float]
    image_size: int
    cell: int
    lr: float
    num_warmup_steps: int
    starts_random: bool
    has_random_memory: bool = False
    image_encoder_lr: Optional[float] = None

    @property
    def now(self) -> Validation:
        """This validation."""
        return self.history[-1]

    @property
    def num_trained(self) -> int:
        """Validations of weights that were trained."""
        return sum(each.step > 0 for each in self.history)

    @property
    def lower_lr(self) -> str:
        """The settings of a tenth of the learning rate."""
        return self.lr_divided_by(10)

    def lr_divided_by(self, divisor: float) -> str:
        """Return the settings of lower learning rates, the image encoder's too if it has its own.

        Args:
            divisor: What each rate is divided by.
        """
        said = f"optimizer.lr={self.lr / divisor:.2g}"
        if self.image_encoder_lr is not None:
            said += f" optimizer.image_encoder_lr={self.image_encoder_lr / divisor:.2g}"
        return said


Rule = Callable[[Case], Optional[Fault]]


def frames_of(tracks: Tracks) -> Frames:
    """Return the frames of all scored objects that tell how they were tracked."""
    columns: list[list[np.ndarray]] = []
    for _, track in sorted(tracks.items()):
        counted = track.is_counted
        places = np.arange(len(counted))
        last_prompt = np.maximum.accumulate(np.where(track.prompted, places, 0))
        columns.append(
            [
                column[counted]
                for column in (
                    track.ious,
                    track.predicted_ious,
                    track.object_scores,
                    track.gt_areas,
                    track.pred_areas,
                    track.twin_ious,
                    places - last_prompt,
                )
            ]
        )
    if not columns:
        return Frames(*np.zeros((7, 0)))
    return Frames(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def prompted_ious_of(tracks: Tracks) -> np.ndarray:
    """Return IoU on the frames that received a prompt and show a scored object."""
    found = [track.ious[track.prompted & (track.gt_areas > 0)] for track in scored_tracks(tracks)]
    return np.concatenate(found) if found else np.zeros(0)


def areas_of(tracks: Tracks) -> np.ndarray:
    """Return the median area of each scored object on the frames that show it, in pixels."""
    shown = (track.gt_areas[track.gt_areas > 0] for track in scored_tracks(tracks))
    return np.array([np.median(areas) for areas in shown if len(areas)])


def first_ious_of(tracks: Tracks, frame_ious: Mapping[tuple[int, int], np.ndarray]) -> np.ndarray:
    """Return the IoU of each scored object on its first tracked frame, NaN where it is not there.

    Args:
        tracks: Of all objects.
        frame_ious: IoU on each frame by video and object id, of the model's masks or of others.
    """
    found = []
    for key, track in sorted(tracks.items()):
        if track.is_counted.any():
            first = int(track.is_counted.argmax())
            there = key in frame_ious and track.gt_areas[first] > 0
            found.append(float(frame_ious[key][first]) if there else math.nan)
    return np.array(found)


def examine(case: Case) -> list[Fault]:
    """Return what is wrong, the rules in order; nothing where nothing is.

    Weights that are random and were not trained yet are not looked at: of them only the data's own
    rules speak.
    """
    untrained = case.starts_random and case.now.step == 0
    faults = (rule(case) for rule in (_DATA_RULES if untrained else RULES))
    return [fault for fault in faults if fault is not None]


@dataclass(frozen=True)
class Diagnosis:
    """What was wrong at a validation; without faults: what was wrong before is so no more.

    Attributes:
        step: Optimizer steps taken.
        faults: The most important one first.
    """

    step: int
    faults: list[Fault]

    def as_text(self) -> str:
        """Return it as lines of text."""
        if not self.faults:
            return f"step {self.step}: nothing is wrong any more"
        told = (f"{each.sentence}: {each.evidence}. Try {each.advice}." for each in self.faults)
        return "\n".join([f"step {self.step}", *(f"- {line}" for line in told)])

    def in_short(self) -> str:
        """Return the first fault, and how many more there are; empty without any."""
        if not self.faults:
            return ""
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        return f"doctor, step {self.step}: {self.faults[0].sentence}{more}"


class Doctor:
    """Remembers the validations of a run and what was wrong at each; goes into checkpoints.

    Attributes:
        history: All validations.
        diagnoses: Those at which something was wrong, and those after which nothing was any more.
    """

    def __init__(self) -> None:
        self.history: list[Validation] = []
        self.diagnoses: list[Diagnosis] = []

    def note(self, now: Validation) -> None:
        """Add a validation; what came later, before the run went back to it, is forgotten."""
        self.history = [each for each in self.history if each.step < now.step] + [now]
        self.diagnoses = [each for each in self.diagnoses if each.step < now.step]

    def diagnose(self, case: Case) -> str:
        """Examine the validation that was noted last.

        Returns:
            What a log says: what is new in full, what is known in short; empty: nothing is wrong.
        """
        faults, step = examine(case), case.now.step
        before = self.diagnoses[-1].faults if self.diagnoses else []
        if faults or before:
            self.diagnoses = [*self.diagnoses[-(_MAX_DIAGNOSES - 1) :], Diagnosis(step, faults)]
        known = {each.name for each in before}
        lines = []
        for each in faults:
            if each.name in known:
                lines.append(f"  still: {each.sentence} ({each.evidence})")
            else:
                lines.append(f"  {each.sentence}: {each.evidence}\n    try {each.advice}")
        return "\n".join([f"doctor, step {step}:", *lines]) if lines else ""

    def in_short(self) -> str:
        """Return what was wrong at the last validation, in a few words; empty: nothing."""
        return self.diagnoses[-1].in_short() if self.diagnoses else ""

    def state(self) -> dict[str, Any]:
        """Return everything in plain types."""
        return {
            "history": [dataclasses.asdict(each) for each in self.history],
            "diagnoses": [dataclasses.asdict(each) for each in self.diagnoses],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self.history = [Validation(**each) for each in state["history"]]
        self.diagnoses = [
            Diagnosis(each["step"], [Fault(**fault) for fault in each["faults"]])
            for each in state["diagnoses"]
        ]


def bad_loss(case: Case) -> Optional[Fault]:
    """The loss is NaN or infinite, or has grown many times."""
    now = case.now
    advice = f"{case.lower_lr}, trainer.gradient_clip_val=0.1, trainer.precision=32-true"
    if now.num_bad_losses:
        return Fault(
            "bad_loss",
            "the loss is NaN or infinite",
            f"in {counted(now.num_bad_losses, 'batch', 'batches')} since the last validation",
            advice,
        )
    before = [each.train_loss for each in case.history[:-1] if math.isfinite(each.train_loss)]
    if not before or not now.train_loss > 3 * min(before):
        return None
    return Fault(
        "bad_loss",
        "the loss explodes",
        f"train/loss was {min(before):.3g} on average between two validations and is "
        f"{now.train_loss:.3g} now",
        advice,
    )


def no_progress(case: Case) -> Optional[Fault]:
    """The loss of training does not fall."""
    losses = [each.train_loss for each in case.history if math.isfinite(each.train_loss)]
    in_warmup = case.now.step <= 2 * case.num_warmup_steps
    if len(losses) < _PATIENCE or in_warmup or losses[-1] < 0.95 * losses[0]:
        return None
    # Weights that are good already need not become better.
    if case.now.iou > min(case.history[0].iou + 0.02, 0.5):
        return None
    return Fault(
        "no_progress",
        "training does not get anywhere",
        f"train/loss was {losses[0]:.3g} on average before the first validation of the training "
        f"and is {losses[-1]:.3g} now; val/iou was {case.history[0].iou:.3f} and is "
        f"{case.now.iou:.3f}",
        f"{case.lower_lr}, or ten times as much where it is tiny",
    )


def below_baseline(case: Case) -> Optional[Fault]:
    """Validations on, the model is no better than the weights that training started from."""
    first, now = case.history[0], case.now
    if first.step > 0 or case.num_trained < _PATIENCE or not now.iou < first.iou - 0.005:
        return None
    # Of images nothing is tracked, and nothing reaches the memory.
    less = "memory" if case.frames.distances.any() else "decoder_memory"
    return Fault(
        "below_baseline",
        "the model is worse than the weights that it started from",
        f"val/iou was {first.iou:.3f} before training and is {now.iou:.3f} after {now.step} steps",
        f"{case.lower_lr}, or train less of it: model.trainable_modules={less}",
    )


def below_copying(case: Case) -> Optional[Fault]:
    """Validations on, leaving the prompt's mask in place still scores more."""
    if case.iou_copy is None or case.num_trained < _PATIENCE or not case.now.iou < case.iou_copy:
        return None
    return Fault(
        "below_copying",
        "the model has not learnt to track",
        f"val/iou {case.now.iou:.3f} is below the {case.iou_copy:.3f} that leaving the prompt's "
        f"mask in place scores, after {case.num_trained} validations",
        f"trainer.max_steps higher, {case.lower_lr}, or released weights "
        "(model.checkpoint_path) with optimizer=finetune",
    )


def overfitting(case: Case) -> Optional[Fault]:
    """Training improves and validation does not."""
    trained = [each for each in case.history if math.isfinite(each.train_loss)]
    if len(trained) <= _PATIENCE:
        return None
    best = max(trained, key=lambda each: each.iou)
    now, since = trained[-1], len(trained) - 1 - trained.index(best)
    if case.history[0].step == 0 and best.iou <= case.history[0].iou:
        return None  # it never got anywhere
    if since < _PATIENCE or now.iou > best.iou - 0.02 or now.train_loss > 0.9 * best.train_loss:
        return None
    return Fault(
        "overfitting",
        "training improves and validation does not",
        f"val/iou was best at step {best.step} ({best.iou:.3f}, now {now.iou:.3f}), while "
        f"train/loss went on from {best.train_loss:.3g} to {now.train_loss:.3g}",
        "trainer.early_stopping_patience=3, more videos, data.augmentation.degrees=25 and the "
        "others of data.augmentation",
    )


def in_warmup(case: Case) -> Optional[Fault]:
    """The learning rate still rises."""
    if not 0 < case.now.step < case.num_warmup_steps:
        return None
    return Fault(
        "in_warmup",
        "the learning rate is still in its warm-up, and this validation says little",
        f"{case.now.step} of {case.num_warmup_steps} steps",
        "a larger trainer.val_check_interval, or a smaller scheduler.warmup_fraction",
    )


def nothing_predicted(case: Case) -> Optional[Fault]:
    """Masks are empty where objects are."""
    there = case.frames.gt_areas > 0
    share = _share(case.frames.pred_areas[there] == 0)
    if not share > 0.5:
        return None
    return Fault(
        "nothing_predicted",
        "nothing is predicted",
        f"the mask is empty on {share:.0%} of the frames that show an object",
        f"{case.lower_lr}, loss.focal_alpha=0.5 and loss.loss_dice=5, which weigh what is missed "
        "more"
        if case.now.step > 0
        else "other weights (model.checkpoint_path), or their own model.image_size",
    )


def one_mask_for_all(case: Case) -> Optional[Fault]:
    """The objects of a clip get the same mask."""
    share = _share(_known(case.frames.twin_ious) >= MERGED_IOU)
    if not share > 0.5:
        return None
    return Fault(
        "one_mask_for_all",
        "the objects of a clip get the same mask",
        f"on {share:.0%} of the frames another object has the same mask (IoU of at least "
        f"{MERGED_IOU})",
        f"{case.lr_divided_by(2)}, twice the data.batch_size or released weights; see "
        '"Objects melt together" in docs/faults.md',
    )


def score_where_absent(case: Case) -> Optional[Fault]:
    """The object score is positive where the object is not."""
    share = _share(_known(case.frames.object_scores[case.frames.gt_areas == 0]) > 0)
    if not share > 0.5:
        return None
    return Fault(
        "score_where_absent",
        "the model does not notice that objects are gone",
        f"the object score is positive on {share:.0%} of the frames that do not show the object",
        "loss.loss_class=5, and training clips in which objects leave (a larger data.num_frames "
        "or data.frame_stride)",
    )


def score_where_present(case: Case) -> Optional[Fault]:
    """The object score is negative where the object is."""
    share = _share(_known(case.frames.object_scores[case.frames.gt_areas > 0]) <= 0)
    if not share > 0.2:
        return None
    return Fault(
        "score_where_present",
        "the model takes objects for gone that are there",
        f"the object score is negative, and the mask therefore empty, on {share:.0%} of the frames "
        "that show the object",
        "a smaller loss.loss_class, and fewer training clips in which objects are absent",
    )


def confident_where_wrong(case: Case) -> Optional[Fault]:
    """The model's own estimate is far above the true IoU."""
    frames = case.frames
    wrong = (frames.gt_areas > 0) & (frames.pred_areas > 0) & (frames.ious < 0.5)
    estimates = _known(frames.predicted_ious[wrong])
    if len(estimates) < max(_MIN_FRAMES, 0.1 * len(frames.ious)) or not estimates.mean() > 0.75:
        return None
    return Fault(
        "confident_where_wrong",
        "the model is sure of masks that are wrong",
        f"on {len(estimates)} frames with IoU below 0.5 it estimates {estimates.mean():.2f} on "
        "average",
        "a larger loss.loss_iou, loss.supervise_all_iou=true, and model.num_correction_points "
        "with prompts other than masks, which show it its errors",
    )


def falls_with_distance(case: Case) -> Optional[Fault]:
    """IoU falls the further the prompt is away."""
    frames = case.frames
    furthest = int(frames.distances.max(initial=0))
    if furthest < 3:
        return None
    third = max(furthest // 3, 1)
    there = frames.gt_areas > 0
    near = frames.ious[there & (frames.distances <= third)]
    far = frames.ious[there & (frames.distances > furthest - third)]
    if min(len(near), len(far)) < _MIN_FRAMES:
        return None
    # Masks that are bad at once have another fault.
    if near.mean() < 0.3 or far.mean() >= 0.75 * near.mean():
        return None
    return Fault(
        "falls_with_distance",
        "masks get worse the further the prompt is away, so the memory carries too little",
        f"IoU is {near.mean():.2f} up to {third} frames behind the prompt, and {far.mean():.2f} "
        f"from {furthest - third + 1} frames on",
        "longer training clips (data.num_frames), model.trainable_modules=null or memory, and "
        "trainer.max_steps higher",
    )


def lost_behind_prompt(case: Case) -> Optional[Fault]:
    """IoU falls as soon as the prompt is gone."""
    frames, given = case.frames, case.prompted_ious
    there = frames.gt_areas > 0
    first = frames.ious[there & (frames.distances == 1)]
    if case.num_trained < _PATIENCE or min(len(given), len(first)) < _MIN_FRAMES:
        return None
    if first.mean() >= 0.5 * given.mean():
        return None
    furthest = int(frames.distances[there].max())
    last = frames.ious[there & (frames.distances == furthest)]
    later = f" and {last.mean():.2f} {furthest} frames behind it" if furthest > 1 else ""
    return Fault(
        "lost_behind_prompt",
        "IoU falls as soon as the prompt is gone, so its objects do not come through the memory",
        f"IoU is {given.mean():.2f} on the frames with a prompt, {first.mean():.2f} on the next "
        f"ones{later}",
        "model.trainable_modules=null or memory: its weights are random and not trained"
        if case.has_random_memory
        else f"trainer.max_steps higher, {case.lower_lr}, model.trainable_modules=null or memory",
    )


def bad_first_frame(case: Case) -> Optional[Fault]:
    """Objects that hardly move are lost at once."""
    slow = (case.first_copied >= 0.8) & np.isfinite(case.first_ious)
    ious = case.first_ious[slow]
    if len(ious) < 3 or not (ious < 0.5).mean() > 0.5:
        return None
    return Fault(
        "bad_first_frame",
        "objects are lost on the first frame behind the prompt although they hardly move",
        f"of {len(ious)} objects whose prompt would still fit there (IoU of 0.8), "
        f"{(ious < 0.5).sum()} have an IoU below 0.5",
        "python -m core.data to see whether masks and frames belong together, and the prompts "
        "column of val/composites",
    )


def tiny_objects(case: Case) -> Optional[Fault]:
    """Objects are smaller than a cell of the features."""
    is_tiny = case.areas < case.cell**2
    if len(is_tiny) == 0 or not is_tiny.mean() > 0.25:
        return None
    return Fault(
        "tiny_objects",
        "objects are smaller than what the model sees",
        f"{is_tiny.sum()} of {len(is_tiny)} objects cover less than one cell of its features "
        f"({case.cell} x {case.cell} px) at model.image_size={case.image_size}",
        f"model.image_size={2 * case.image_size}",
    )


def still_frames(case: Case) -> Optional[Fault]:
    """Frames hardly change, so that validation says nothing of tracking."""
    if case.iou_copy is None or not case.iou_copy > 0.95:
        return None
    return Fault(
        "still_frames",
        "objects hardly move in the validation clips, so val/iou says little of tracking",
        f"leaving the prompt's mask in place scores {case.iou_copy:.3f}",
        "data.frame_stride=5 or more, or a larger data.val_num_frames",
    )


# In the order in which they are told: what makes the others meaningless comes first.
RULES: tuple[Rule, ...] = (
    bad_loss,
    tiny_objects,
    still_frames,
    no_progress,
    below_baseline,
    nothing_predicted,
    one_mask_for_all,
    below_copying,
    overfitting,
    bad_first_frame,
    lost_behind_prompt,
    falls_with_distance,
    score_where_absent,
    score_where_present,
    confident_where_wrong,
    in_warmup,
)
_DATA_RULES: tuple[Rule, ...] = (tiny_objects, still_frames)


def _share(flags: np.ndarray) -> float:
    """Return the share of frames that are, NaN of too few."""
    return float(flags.mean()) if len(flags) >= _MIN_FRAMES else math.nan


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
