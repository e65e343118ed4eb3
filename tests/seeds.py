"""How well the default run learns at each seed: ``make seeds ARGS="--threads 2"``."""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def train(folder, seed, *overrides, threads=1):
    """Train the default run without pictures; return its last ``val/iou`` and ``val/iou_copy``."""
    last = validations(folder, seed, *overrides, threads=threads)[-1]
    return last["val/iou"], last["val/iou_copy"]


def validations(folder, seed, *overrides, threads=1):
    """Train without pictures; return what each validation logged."""
    command = [
        sys.executable,
        str(REPOSITORY / "train.py"),
        f"seed={seed}",
        "logger=csv",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        f"hydra.run.dir={folder}",
        *overrides,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    ended = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stdout}{ended.stderr}")
    with open(Path(folder, "csv", "metrics.csv"), newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["val/iou"]]
    return [
        {name: float(value) for name, value in row.items() if name.startswith("val/") and value}
        for row in rows
    ]


def main():
    """Train seed after seed and print a line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-seeds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="settings of train.py")
    options = parser.parse_args()
    reached = []
    print("seed  val/iou  copying  seconds", flush=True)
    for seed in range(options.num_seeds):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            iou, copying = train(folder, seed, *options.overrides, threads=options.threads)
        reached.append(iou)
        seconds = time.monotonic() - began
        print(f"{seed:4}  {iou:7.3f}  {copying:7.3f}  {seconds:7.0f}", flush=True)
    print(f"least {min(reached):.3f}, median {statistics.median(reached):.3f}")


if __name__ == "__main__":
    main()
