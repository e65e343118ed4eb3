"""What public evaluators return for ``ROOT/Annotations`` and ``ROOT/masks``, as JSON.

Runs in an environment with ``vos-benchmark`` and ``esdft-segmetric``, which is not the program's.
"""

import contextlib
import json
import sys
from pathlib import Path

from segmetric.evaluation import Evaluation
from vos_benchmark.benchmark import benchmark


def main(root):
    annotations, masks = root / "Annotations", root / "masks"
    with contextlib.redirect_stdout(sys.stderr):
        jf, j, f, objects = benchmark([str(annotations)], [str(masks)], verbose=False)
        davis = Evaluation(root).evaluate(masks)
    sav = {
        f"{video}_{key}": [ious[key] / 100, boundaries[key] / 100]
        for video, (ious, boundaries) in objects[0].items()
        for key in ious
    }
    names = list(davis["J"]["M_per_object"])
    columns = [davis[metric][part] for part in ("M", "R", "D") for metric in ("J", "F")]
    result = {
        "sav": sav,
        "sav_mean": [value[0] / 100 for value in (jf, j, f)],
        "davis": {name: list(values) for name, *values in zip(names, *columns, strict=True)},
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
