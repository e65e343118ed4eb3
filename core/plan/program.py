"""Probes, predicts and makes the table."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
    largest = sizes[-1]
    probes = [probe_of(config, size) for size in sizes]
    probes += [probe_of(choice, largest) for choice in choices.values()]
    work = [*map(_work, sizes), *[_work(largest)] * len(choices)]
    say(
        f"{len(probes)} probes of {NUM_STEPS} steps each, for {own}; the first one tells how long "
        "they take"
    )
    measured = list(_probe_all(probes, work, say, probe))
    points, others = measured[: len(sizes)], measured[len(sizes) :]
    known = [(size, found) for size, found in zip(sizes, points, strict=True) if found is not None]
    reference = points[-1]
    if reference is None:
        raise UserError(
            f"memory does not suffice for {largest}, which is probed for {own}: plan a smaller "
            "data.batch_size, data.num_frames or model.image_size first"
        )
    at = [size for size, _ in known]
    peak = fit(at, [found.peak for _, found in known])(own)
    step_s = fit(at, [found.step_s for _, found in known])(own)
    step_s *= config.trainer.accumulate_grad_batches
    rows = [Row(OWN, peak, step_s)]
    for name, found in zip(choices, others, strict=True):
        if found is not None:
            rows.append(_scaled(name, rows[0], found, reference))
    failed = [name for name, found in zip(choices, others, strict=True) if found is None]
    return Plan(own, reference.device, reference.name, rows, failed)


def _scaled(name: str, own: Row, found: Measured, reference: Measured) -> Row:
    """Return a choice at the user's size: what depends on the clips grows as with the own ones."""
    grows = (own.peak - reference.weights) / (reference.peak - reference.weights)
    peak = found.weights + (found.peak - found.weights) * grows
    return Row(name, peak, own.step_s * found.step_s / reference.step_s)


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
