"""The default run learns to track, whichever seed it has."""

import pytest
from seeds import train


@pytest.mark.slow
# With twice the learning rate 0.39, 0.74 and 0.75. Each takes two minutes of a core.
@pytest.mark.parametrize(
    "seed",
    [
        1,
        *(pytest.param(s, marks=pytest.mark.long) for s in (9, 10)),
    ],
)
def test_the_default_run_learns_at_every_seed(seed, tmp_path):
    iou, copying = train(tmp_path, seed)
    assert copying < 0.6
    assert iou > 0.85  # measured: 0.93 and more; other processors add up in another order
