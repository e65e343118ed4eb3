"""``make references``: the program's numbers beside those that public evaluators return now.

Takes the Python of an environment with ``vos-benchmark`` and ``esdft-segmetric``, and folders
``NAME=ROOT`` with ``Annotations/VIDEO`` and ``masks/VIDEO`` to compare as well.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from core.evaluate.protocols import average, score_objects
from core.evaluate.scores import VideoScores

from .scenes import LENGTHS, scene

PUBLIC = Path(__file__).with_name("public.py")


def measure(gt, pred):
    """Score label maps [T, H, W] as `core.evaluate` does."""
    ids = sorted(set(np.unique(gt).tolist()) - {0, 255})
    first = [int(np.flatnonzero((gt == key).any((1, 2)))[0]) for key in ids]
    scores = VideoScores.empty(len(gt), ids, [""] * len(ids), first)
    for t in range(len(gt)):
        masks = ({key: labels[t] == key for key in ids} for labels in (pred, gt))
        scores.add(t, t, *masks, complete=True)
    return scores


def write(root, videos):
    """Write label maps as DAVIS has them, for evaluators that read files."""
    (root / "ImageSets").mkdir(parents=True)
    (root / "ImageSets" / "val.txt").write_text("\n".join(videos))
    for name, labels in videos.items():
        for kind, frames in zip(("Annotations", "masks"), labels, strict=True):
            (root / kind / name).mkdir(parents=True)
            for t, values in enumerate(frames):
                Image.fromarray(values).save(root / kind / name / f"{t:05d}.png")
        (root / "JPEGImages" / name).mkdir(parents=True)
        for t in range(len(labels[0])):
            (root / "JPEGImages" / name / f"{t:05d}.jpg").touch()


def largest_difference(videos, public):
    """Return the largest difference of any number, and how many were compared."""
    measured = {name: measure(*labels) for name, labels in videos.items()}
    pairs = []
    for name, scores in measured.items():
        for score in score_objects("sav", scores, palette=True):
            pairs += zip(
                (score.j, score.f), public["sav"][f"{name}_{score.object_id}"], strict=True
            )
        for score in score_objects("davis", scores, palette=True):
            j, f, *rest = public["davis"][f"{name}_{score.object_id}"]
            pairs += [(score.j, j), (score.f, f), (score.j_recall, rest[0])]
            pairs += [(score.f_recall, rest[1])]
            if len(scores.numbers) <= 256:  # the public code counts frames in 8 bits
                pairs += [(score.j_decay, rest[2]), (score.f_decay, rest[3])]
    found = [s for v in measured.values() for s in score_objects("sav", v, palette=True)]
    j, f = average(found, lambda score: score.j), average(found, lambda score: score.f)
    pairs += zip(((j + f) / 2, j, f), public["sav_mean"], strict=True)
    expected = sum(map(len, (public["sav"], public["davis"])))
    counted = sum(
        len(score_objects(protocol, scores, palette=True))
        for scores in measured.values()
        for protocol in ("sav", "davis")
    )
    assert counted == expected, f"{counted} objects are counted, {expected} by public tools"
    return max(abs(one - other) for one, other in pairs), len(pairs)


def main(python, *folders):
    sets = {"generated": {f"video{i:02d}": scene(i) for i in range(len(LENGTHS))}}
    for folder in folders:
        name, _, root = folder.partition("=")
        sets[name] = {
            path.name: tuple(
                np.stack([np.array(Image.open(Path(root) / kind / path.name / file.name))
                          for file in sorted(path.glob("*.png"))])
                for kind in ("Annotations", "masks")
            )
            for path in sorted((Path(root) / "Annotations").iterdir())
        }  # fmt: skip
    failed = False
    for name, videos in sets.items():
        with tempfile.TemporaryDirectory() as root:
            write(Path(root) / "data", videos)
            command = [python, str(PUBLIC), str(Path(root) / "data")]
            public = json.loads(subprocess.run(command, check=True, stdout=-1).stdout)
        difference, count = largest_difference(videos, public)
        print(f"{name}: {count} numbers, largest difference {difference:.1e}")
        failed |= not difference < 1e-6
    sys.exit(failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
