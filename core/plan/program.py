"""Probes, predicts and makes the table."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from rich.table import Table

from ..checks import UserError
from ..config import Config
from ..progress import duration
from .fit import Measured, Size, fit
from .sizes import NUM_STEPS, choices_of, probe_of, sizes_to_probe

GPUS_GB = (8, 12, 16, 24, 40, 80)
OWN = "your settings"
# Besides tensors a GPU holds the CUDA context, and gaps between them.
_CONTEXT_GIB, _GAPS = 0.6, 1.1
# glibc gives memory back as it is freed, so that a peak is what was needed at once.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

Probe = Callable[[Config], Optional[Measured]]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        settings: What has to be typed.
        peak: GiB at most at the user's own size.
        step_s: Seconds per optimizer step there.
    """

    settings: str
    peak: float
    step_s: float


@dataclass(frozen=True)
class Plan:
    """What was found.

    Attributes:
        own: The size that was predicted.
        device: ``cuda``, ``cpu``, ...
        name: The device's own name.
        rows: The user's settings first.
        failed: Choices for which this device has not enough memory even where they were probed.
    """

    own: Size
    device: str
    name: str
    rows: list[Row]
    failed: list[str]


def run_probe(config: Config) -> Optional[Measured]:
    """Take the steps of `config` in a process of its own; return None where memory runs out.

    Raises:
        UserError: The steps fail for another reason.
    """
    done = subprocess.run(
        [sys.executable, "-m", "core.plan.probe"],
        check=False,
        input=json.dumps(dataclasses.asdict(config)),
        capture_output=True,
        text=True,
        env={**os.environ, **_MALLOC},
    )
    if done.returncode < 0:  # the system ends a process that takes too much
        return None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"a probe failed: {said[-1]}")
    measured = json.loads(done.stdout.splitlines()[-1])
    return None if measured is None else Measured(**measured)


def plan(config: Config, own: Size, say: Callable[[str], None], probe: Probe = run_probe) -> Plan:
    """Probe and predict.

    Args:
        config: The training's settings.
        own: Its size.
        say: Is told how many probes there are and how long they take.
        probe: Takes the steps.

    Raises:
        UserError: Memory does not suffice for the probes.
    """
    sizes, choices = sizes_to_probe(own, config), choices_of(config)
    ends = [sizes[0], sizes[-1]]
    probes = [probe_of(config, size) for size in sizes]
    probes += [probe_of(choice, size) for choice in choices.values() for size in ends]
    work = [_work(size) for size in [*sizes, *ends * len(choices)]]
    say(
        f"{len(probes)} probes of {NUM_STEPS} steps each, for {own}; the first one tells how long "
        "they take"
    )
    measured = _probe_all(probes, work, say, probe)
    points = list(itertools.islice(measured, len(sizes)))
    known = [found for found in points if found is not None]
    if len(known) < len(points):
        raise UserError(
            f"memory does not suffice for {ends[1]}, which is probed for {own}: plan a smaller "
            "data.batch_size, data.num_frames or model.image_size first"
        )
    step_s = fit(sizes, [found.step_s for found in known])(own)
    peak = fit(sizes, [found.peak for found in known])(own)
    rows, failed = [Row(OWN, peak, step_s)], []
    for name in choices:
        small, large = next(measured), next(measured)
        if small is None or large is None:
            failed.append(name)
        else:
            rows.append(_choice(name, rows[0], (known[0], known[-1]), (small, large)))
    batches = config.trainer.accumulate_grad_batches
    rows = [dataclasses.replace(row, step_s=batches * row.step_s) for row in rows]
    return Plan(own, known[0].device, known[0].name, rows, failed)


def _choice(name: str, own: Row, known: Sequence[Measured], found: Sequence[Measured]) -> Row:
    """Return what a choice needs at the user's size, from what it needed at two others.

    Its memory goes on growing with that of the user's settings as it did between the two: what it
    saves of weights stays, what it saves of each clip grows. Its seconds keep the ratio that they
    had at the larger size: those of the smaller one are too few to be told from noise.

    Args:
        name: What has to be typed for it.
        own: The user's settings at the user's size.
        known: Their needs at the smallest and the largest size that were probed.
        found: The needs of the choice there.
    """
    peak = _on_line([each.peak for each in known], [each.peak for each in found], own.peak)
    return Row(name, peak, own.step_s * found[1].step_s / known[1].step_s)


def _on_line(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Return y at x on the line through two points; behind the second one it does not fall."""
    slope = (ys[1] - ys[0]) / (xs[1] - xs[0]) if xs[1] > xs[0] else ys[1] / xs[1]
    return ys[1] + max(0.0, slope) * (x - xs[1])


def _work(size: Size) -> int:
    return size.frames * (size.objects + 1) * size.side**2


def _probe_all(
    probes: list[Config], work: list[int], say: Callable[[str], None], probe: Probe
) -> Iterator[Optional[Measured]]:
    started = time.monotonic()
    for number, config in enumerate(probes):
        found = probe(config)
        yield found
        if number == 0 and found is not None:
            steps_s = NUM_STEPS * found.step_s
            start_s = max(0.0, time.monotonic() - started - steps_s)
            left_s = sum(start_s + steps_s * other / work[0] for other in work[1:])
            say(f"about {duration(left_s)} left")


def fits(peak: float, gigabytes: float) -> bool:
    """Return whether a GPU sold with so many GB has room for a peak in GiB."""
    return peak * _GAPS + _CONTEXT_GIB <= gigabytes


def table_of(found: Plan) -> Table:
    """Return the table; GPUs are marked where a GPU was probed."""
    gpu = found.device == "cuda"
    table = Table(title=f"One training step of {found.own}")
    table.add_column("settings", overflow="fold")
    table.add_column("peak GiB", justify="right")
    table.add_column("s per step", justify="right")
    if gpu:
        table.add_column("fits")
    for row in found.rows:
        cells = [row.settings, f"{row.peak:.2f}", f"{row.step_s:.3g}"]
        if gpu:
            smallest = next((f"{size} GB" for size in GPUS_GB if fits(row.peak, size)), "none")
            cells.append(smallest)
        table.add_row(*cells)
    for name in found.failed:
        table.add_row(name, "too much here", "", *([""] if gpu else []))
    return table


def remark_on(found: Plan) -> str:
    """Return what the figures are of."""
    if found.device == "cuda":
        return (
            f"Predicted from probes on {found.name}: what tensors take at most. `fits` names the "
            f"smallest of {', '.join(map(str, GPUS_GB))} GB that holds them with {_CONTEXT_GIB} "
            "GiB for CUDA and 10 % for gaps."
        )
    return (
        "Predicted from probes on this machine: resident memory of the training process, while "
        "malloc gives back what is freed (MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ set to "
        "65536; without them up to a third more, and faster steps). GPUs differ: attention there "
        "keeps less. Run it on the GPU to see what fits."
    )
