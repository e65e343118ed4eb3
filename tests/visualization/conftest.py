"""What is written on sheets."""

import pytest

from core.visualization.drawing.canvas import Canvas


@pytest.fixture
def written(monkeypatch):
    """Every text that is drawn."""
    texts = []
    write = Canvas.write

    def remember(canvas, pieces, *args):
        texts.extend(text for _, _, text in pieces)
        return write(canvas, pieces, *args)

    monkeypatch.setattr(Canvas, "write", remember)
    return texts
