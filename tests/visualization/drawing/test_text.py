"""Names in any script: which font writes them, how they are joined, in which direction they run."""

import matplotlib.font_manager
import numpy as np
import pytest

from core.visualization.drawing import text as writing
from core.visualization.drawing.canvas import Canvas
from core.visualization.drawing.text import fit, text_width

pytestmark = pytest.mark.filterwarnings("error")

# STIX, which matplotlib brings, has it, and DejaVu Sans has not.
D_WITH_HOOK_AND_TAIL = "\N{LATIN SMALL LETTER D WITH PALATAL HOOK}"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is known of fonts yet, and afterwards only what is true of the real ones."""
    cached = [found for found in vars(writing).values() if hasattr(found, "cache_clear")]
    monkeypatch.setattr(writing, "_family_of", {})
    monkeypatch.setattr(writing, "_told", [])
    for found in cached:
        found.cache_clear()
    yield
    for found in cached:
        found.cache_clear()


def ink(text, width=200):
    """How dark each pixel of a line is that is written from column 20 on: [20, width]."""
    canvas = Canvas(width, 20)
    canvas.write([(20, 0, text)])
    return 255 - canvas.pixels()[..., 0].astype(int)


def side_by_side(*texts):
    """Texts written one after the other, each by itself."""
    canvas = Canvas(200, 20)
    pen = 20.0
    for text in texts:
        canvas.write([(round(pen), 0, text)])
        pen += text_width(text)
    return 255 - canvas.pixels()[..., 0].astype(int)


def likeness(first, second):
    """Correlation of two lines, the second moved by at most two pixels."""
    return max(
        np.corrcoef(first.ravel(), np.roll(second, move, 1).ravel())[0, 1] for move in range(-2, 3)
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("cafe\N{COMBINING ACUTE ACCENT}", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("\N{BLACK SCISSORS}\N{VARIATION SELECTOR-16}", "\N{BLACK SCISSORS}"),
        ("soft\N{SOFT HYPHEN}ly", "softly"),
    ],
)
def test_names_look_the_same_however_they_are_encoded(written, meant):
    assert (ink(written) == ink(meant)).all()


def test_an_accent_that_cannot_be_composed_stands_over_its_letter():
    plain, accented = ink("x"), ink("x\N{COMBINING MACRON}")
    assert (accented[8:] == plain[8:]).all()
    assert accented[:8].sum() > plain[:8].sum()
    assert text_width("x\N{COMBINING MACRON}") == text_width("x")


def test_arabic_letters_are_joined_and_run_from_right_to_left():
    # Meem at the start, qaf in the middle, sad at the end, as letters of their own.
    joined = ["\N{ARABIC LETTER SAD FINAL FORM}", "\N{ARABIC LETTER QAF MEDIAL FORM}"]
    joined.append("\N{ARABIC LETTER MEEM INITIAL FORM}")
    name = "مقص"
    assert likeness(ink(name), side_by_side(*joined)) > 0.9
    assert likeness(ink(name), side_by_side(*name)) < 0.7
    assert likeness(ink(name), side_by_side(*reversed(name))) < 0.7


@pytest.mark.parametrize(
    ("name", "from_the_left"),
    [
        ("אב", "בא"),
        ("אב גד", "דג בא"),
        ("אב 12 גד", ["ד", "ג", " 12 ", "ב", "א"]),
        ("7 אב", ["7 ", "ב", "א"]),
        ("אב no גד", ["ב", "א", " no ", "ד", "ג"]),
        ("אב, גד", ["ד", "ג", " ,", "ב", "א"]),
        ("אב, no", ["ב", "א", ", no"]),
    ],
)
def test_words_that_run_from_right_to_left_keep_their_order(name, from_the_left):
    assert likeness(ink(name), side_by_side(*from_the_left)) > 0.85


def test_a_font_that_was_installed_after_matplotlib_listed_them_is_found(monkeypatch):
    manager = matplotlib.font_manager.fontManager
    stix = matplotlib.font_manager.findfont("STIXGeneral")
    rest = [entry for entry in manager.ttflist if entry.name.startswith("DejaVu Sans")]
    monkeypatch.setattr(manager, "ttflist", rest)
    searches = []
    monkeypatch.setattr(
        matplotlib.font_manager, "findSystemFonts", lambda: searches.append(stix) or [stix]
    )
    shown = ink(D_WITH_HOOK_AND_TAIL)
    assert (shown != ink("\N{WHITE SQUARE}")).any()
    assert shown.any()
    ink("\U0001d81a")
    assert searches == [stix]


def test_characters_that_no_font_has_are_squares_and_said_once(monkeypatch, caplog):
    monkeypatch.setattr(writing, "_search", lambda char: None)
    assert (ink("手 术") == ink("\N{WHITE SQUARE} \N{WHITE SQUARE}")).all()
    ink("胆囊")
    (record,) = caplog.records
    assert record.getMessage().startswith("no installed font has the characters 手 术: ")


def test_the_search_for_fonts_ends(monkeypatch):
    searched = []
    monkeypatch.setattr(writing, "_search", searched.append)
    for code in range(0x4E00, 0x4E00 + 300):
        text_width(chr(code))
    assert len(searched) == 64


@pytest.mark.parametrize("text", ["e\N{COMBINING ACUTE ACCENT}" * 40, "שלום " * 20, "plain " * 20])
@pytest.mark.parametrize("width", [30, 61, 100])
def test_a_text_that_is_cut_fits_and_is_not_cut_too_short(text, width):
    cut = fit(text, width)
    assert cut.endswith("…")
    assert width - 25 < text_width(cut) <= width
    assert not cut[:-1].endswith("e")
