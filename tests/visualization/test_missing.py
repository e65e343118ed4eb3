"""What is not installed costs no training, and pictures only where nothing can be drawn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Prints the steps that have a picture and the steps trained.
TRAINING = """
import logging
import sys

import matplotlib.font_manager

fonts = matplotlib.font_manager.fontManager.ttflist
if sys.argv[1] == "one font":
    fonts[:] = [font for font in fonts if font.name != "DejaVu Sans"]
elif sys.argv[1] == "all fonts":
    fonts.clear()
else:
    sys.modules[sys.argv[1]] = None  # to import it fails

from fakes import ROOM, RememberingLogger, SomeonesModule
from scenes import widening_squares
from trainings import make_trainer

logger = RememberingLogger()
trainer = make_trainer(".", logger)
trainer.fit(SomeonesModule({**ROOM, "every_n_steps": 1}), widening_squares(3))
print("drawn", [step for _, step in logger.moments_of("train")], "trained", trainer.global_step)
"""


@pytest.mark.parametrize(
    "missing",
    [
        "swanlab",
        pytest.param("isal", marks=pytest.mark.long),
        pytest.param("one font", marks=pytest.mark.long),
        "all fonts",
    ],
)
def test_what_is_missing_costs_no_training(missing, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", TRAINING, missing]
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    drawn = [] if missing == "all fonts" else [0, 1, 2]
    assert f"drawn {drawn} trained 3" in found.stdout
    said = found.stderr.count("drawing or logging failed; training continues")
    assert said == (missing == "all fonts")
