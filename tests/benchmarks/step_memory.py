"""What a training step needs in memory and time: by clip, by checkpointing, by what is trained.

``python -m tests.benchmarks.step_memory TABLE [--image-size N ...] [OVERRIDE ...]`` runs one step
(forward, loss, backward, optimizer) per row and image size, each in a process of its own so that
peaks do not add up, and prints a table. On a CPU that is the peak resident memory, the 0.5 GiB of
the program included, and the CPU time of all threads; glibc is made to return memory at once, for
otherwise peaks are 10 to 35 % higher by chance. On a GPU it is the peak of what PyTorch allocates,
and the time.
"""

import argparse
import json
import os
import subprocess
import sys

from core.config import CHECKPOINTING, TRAINABLE_PRESETS

CLIPS = [(2, 1), (4, 1), (4, 3)]  # frames, objects
SAME_PROMPTS = (
    "data.batch_size=1",
    "data.num_workers=0",
    "model.prompt_type=mask",
    "model.num_frames_to_correct=1",
    "model.num_init_cond_frames=1",
)
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def clip(num_frames: int, num_objects: int) -> list[str]:
    """Return the overrides for clips of this size."""
    return [
        f"data.num_frames={num_frames}",
        f"data.synthetic.min_objects={num_objects}",
        f"data.synthetic.max_objects={num_objects}",
    ]


def rows_of(table: str) -> dict[str, list[str]]:
    """Return a table's rows and the overrides of each."""
    if table == "clips":
        return {f"{t} frames, {o} object{'s' * (o > 1)}": clip(t, o) for t, o in CLIPS}
    if table == "checkpointing":
        common = [*clip(2, 1), "model.prompt_type=point"]
        return {
            f"`{choice}`": [*common, f"model.activation_checkpointing={choice}"]
            for choice in CHECKPOINTING
        }
    presets = {
        f"`{name}`": [*clip(2, 1), f"model.trainable_modules={name}"] for name in TRAINABLE_PRESETS
    }
    return {**presets, "adapters, rank 8": [*clip(2, 1), "model.lora.rank=8"]}


def measure(overrides: list[str]) -> tuple[float, float]:
    """Train one step and return the peak in GiB and the seconds."""
    import resource
    import time

    import torch

    from core.data import VideoDataModule
    from core.optim import build_optimizer
    from core.trainer import CORE_LOSS, SAM2LightningModule

    from .training import default_config

    config = default_config([*SAME_PROMPTS, *overrides])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    module = SAM2LightningModule(config).to(device)
    optimizer = build_optimizer(module.model, config.optimizer)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # its state is there from the second step on
    optimizer.zero_grad()
    data = VideoDataModule(config.data, config.model.image_size, seed=0)
    data.setup()
    batch = next(iter(data.train_dataloader())).to(device)
    clock = time.perf_counter if device == "cuda" else time.process_time
    started = clock()
    losses = module.loss(module(batch), batch.masks)
    losses[CORE_LOSS].backward()
    optimizer.step()
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.synchronize()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak / 2**30, clock() - started


def measure_apart(overrides: list[str]) -> tuple[float, float]:
    """Do the same in a process of its own; one that fails ends the program."""
    command = [sys.executable, "-m", "tests.benchmarks.step_memory", "--one", *overrides]
    done = subprocess.run(
        command, env={**os.environ, **RETURN_MEMORY}, stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(overrides)} did not finish (exit status {done.returncode})")
    peak, seconds = json.loads(done.stdout.splitlines()[-1])
    return peak, seconds


def main() -> None:
    """Measure the rows of the table asked for, and print each as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("table", choices=("clips", "checkpointing", "trained"))
    parser.add_argument("--image-size", type=int, nargs="+", default=[512])
    parser.add_argument("--rows", type=int, nargs="+", help="these rows alone, counted from 0")
    parser.add_argument("overrides", nargs="*", help="settings of the training")
    arguments = parser.parse_intermixed_args()
    rows = list(rows_of(arguments.table).items())
    sizes = arguments.image_size
    print("| |" + "".join(f" {size} px: peak GiB | s |" for size in sizes))
    print("|---|" + "---|---|" * len(sizes))
    for index in arguments.rows or range(len(rows)):
        name, own = rows[index]
        cells = []
        for size in sizes:
            setting = ["model=sam2.1_hiera_tiny", f"model.image_size={size}", *own]
            peak, seconds = measure_apart([*setting, *arguments.overrides])
            cells.append(f" {peak:.2f} | {seconds:.1f} |")
        print(f"| {name} |" + "".join(cells), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2:])))
    else:
        main()
