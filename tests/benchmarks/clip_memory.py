"""What training needs in memory, by clip length and number of objects.

``python -m tests.benchmarks.clip_memory [--architecture NAME] [--image-size N] [--clips TxO ...]``
runs one forward and backward pass per clip size, each in a process of its own so that peaks do not
add up, and prints a table: peak resident memory on CPU, peak allocated memory on a GPU.
"""

import argparse
import multiprocessing
import resource
import sys

import torch


def measure(architecture: str, image_size: int, num_frames: int, num_objects: int, queue) -> None:
    """Train one step and put the peak in GiB and the seconds taken into `queue`."""
    import time

    from core.config import Config, DataConfig, ModelConfig, SyntheticConfig
    from core.data import VideoDataModule
    from core.trainer import CORE_LOSS, SAM2LightningModule

    config = Config(
        model=ModelConfig(architecture=architecture, image_size=image_size),
        data=DataConfig(
            num_frames=num_frames,
            batch_size=1,
            max_objects=num_objects,
            synthetic=SyntheticConfig(min_objects=num_objects, max_objects=num_objects),
        ),
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    module = SAM2LightningModule(config).to(device)
    data = VideoDataModule(config.data, image_size, seed=0)
    data.setup()
    batch = next(iter(data.train_dataloader())).to(device)
    data.normalise(batch)
    started = time.perf_counter()
    losses = module.loss(module(batch), batch.masks)
    losses[CORE_LOSS].backward()
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    queue.put((peak / 2**30, time.perf_counter() - started))


def main() -> None:
    """Measure the clip sizes asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--architecture", default="sam2.1_hiera_tiny")
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--clips", nargs="+", default=["2x1", "4x1", "8x1", "4x3"])
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("| frames | objects | peak GiB | s per step |\n|---|---|---|---|")
    for clip in arguments.clips:
        num_frames, num_objects = (int(part) for part in clip.split("x"))
        queue = context.Queue()
        process = context.Process(
            target=measure,
            args=(arguments.architecture, arguments.image_size, num_frames, num_objects, queue),
        )
        process.start()
        process.join()
        if process.exitcode != 0:
            sys.exit(f"error: {clip} did not finish (exit status {process.exitcode})")
        peak, seconds = queue.get()
        print(f"| {num_frames} | {num_objects} | {peak:.1f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
