"""What ``python -m core.predict`` takes."""

import re
from dataclasses import dataclass
from typing import Optional

from ..checks import A_PATH, TRUE_OR_FALSE, Rule, one_of, or_null, setting
from ..config import Config

CONFIG_NAME = "predict"
SCHEMA = "predict_schema"
DRAW = "draw"

_FRAMES = Rule(
    "FIRST:END:STRIDE, of which each may be left out, such as 0:100 or ::2",
    lambda value: (
        bool(re.fullmatch(r"\d*(:\d*){0,2}", value)) and not re.fullmatch(r".*:.*:0*0", value)
    ),
)


@dataclass
class PredictConfig(Config):
    """The settings of a training, of which model and devices matter, and what is its own."""

    weights: Optional[str] = setting(
        None,
        A_PATH,
        "a run's folder (its best weights), a .ckpt or .pt, a folder of "
        "Hugging Face's, or a file of adapters",
    )
    base: Optional[str] = setting(
        None,
        A_PATH,
        "the weights that a file of adapters belongs to; null: those that its run started from, or "
        "the file of their name beside it",
    )
    source: Optional[str] = setting(
        None, A_PATH, "a movie, or a folder of images with a number in their names"
    )
    prompts: Optional[str] = setting(
        None,
        A_PATH,
        "a PNG of object ids for the first frame, a folder of such PNGs, or a JSON; `draw` writes"
        " a first frame with a grid and a JSON to fill in",
    )
    frames: Optional[str] = setting(
        None, or_null(_FRAMES), "FIRST:END:STRIDE, counted from 0; null: every frame"
    )
    direction: str = setting(
        "both",
        one_of("both", "forward"),
        "`both` tracks the frames before an object's first prompt as well",
    )
    per_object: bool = setting(
        False, TRUE_OR_FALSE, "one folder of masks per object, where masks may overlap"
    )
    film: bool = setting(True, TRUE_OR_FALSE, "write film.mp4")
    postprocessing: bool = setting(
        False, TRUE_OR_FALSE, "Meta's post-processing, which training does not do"
    )
    out: Optional[str] = setting(
        None, A_PATH, "folder of the results; null: `predictions/SOURCE` below the run"
    )
    overwrite: bool = setting(False, TRUE_OR_FALSE, "replace the results that lie in `out`")
