"""One image to any logger: the pixels are the same, whichever library compresses them."""

import importlib.util
import io
import sys
import zlib

import numpy as np
from PIL import Image

from core.visualization import images


def test_png_without_isal_holds_the_same_pixels(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    monkeypatch.setitem(sys.modules, "isal", None)  # to import it fails
    spec = importlib.util.find_spec("core.visualization.images")
    without_isal = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without_isal)
    assert without_isal.deflate is zlib
    for module in (images, without_isal):
        png = module.encode_png(image)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), image)
