"""``python -m tests.benchmarks [--quick] [--only NAME]``: prints a table, writes a JSON."""

import argparse
import time
from pathlib import Path

from . import blocked, cuda, drawing, growth, loading, memory, outcomes, scale, training
from .measure import Results

PARTS = {
    "memory": memory,  # first: what others leave behind and free later would hide growth
    "blocked": blocked,
    "drawing": drawing,
    "growth": growth,
    "outcomes": outcomes,
    "training": training,
    "loading": loading,
    "cuda": cuda,
    "scale": scale,
}
# takes a quarter of an hour
_WHEN_ASKED_FOR = ("scale",)


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--only", choices=PARTS, help="one part instead of all")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench.json"))
    arguments = parser.parse_args()
    results = Results()
    for name, part in PARTS.items():
        if arguments.only == name or (arguments.only is None and name not in _WHEN_ASKED_FOR):
            started = time.perf_counter()
            results.merge(part.measure(arguments.quick))
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    results.write(arguments.output)
    print("\n" + results.table() + f"\n\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
