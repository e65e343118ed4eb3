"""Words as pixels: which font has a character, how wide a text is, what its words cover.

matplotlib lays out and rasterises every string anew, which takes milliseconds; a sheet has a
hundred strings of the same few characters. Words are therefore put together from their characters,
each rasterised once. Scripts whose letters change beside each other, or run from right to left, are
rasterised as whole words: matplotlib shapes them from version 3.11 on.
"""

import bisect
import contextlib
import logging
import math
import re
import unicodedata
from functools import lru_cache
from typing import Optional

import matplotlib.font_manager
import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontEntry, FontProperties

LINE = 20
_FONT_SIZE = 14
# Chinese, Japanese and Korean share characters, which differ a little from font to font.
_CJK_FONTS = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "SimHei",
    "PingFang SC",
)
# Fonts that draw something else than the character: its block's name, or a mathematical symbol.
_NO_TEXT = ("Last Resort", "cm")
# Joiners tell neighbours how to join; they are no characters to look for.
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
_MISSING = "\N{WHITE SQUARE}"
_PUNCTUATION = ",;:"
_RIGHT_TO_LEFT = ("R", "AL")
_SPLIT = re.compile(" |[^ ]+")
# A search opens every font that is installed. Whoever writes more scripts than this gets squares.
_MAX_SEARCHES = 64

log = logging.getLogger(__name__)


def text_width(text: str) -> int:
    """Return the width of a line of text in pixels."""
    return math.ceil(sum(map(advance, words(text))))


def fit(text: str, width: int) -> str:
    """Shorten a text with an ellipsis until it is at most `width` pixels wide."""
    if text_width(text) <= width:
        return text
    room = width - text_width("…")
    kept = bisect.bisect_right(range(1, len(text)), room, key=lambda end: text_width(text[:end]))
    while 0 < kept < len(text) and unicodedata.combining(text[kept]):
        kept -= 1  # an accent stays with its letter
    return text[:kept] + "…"


@lru_cache(maxsize=1024)
def words(text: str) -> tuple[str, ...]:
    """Split a line at its spaces, which count as words too, into what `pixels_of_word` draws.

    Accents are composed with their letters (NFC), invisible characters such as emoji selectors left
    out, and characters that no font has replaced by squares. Neighbours that run from right to left
    are one word, for their order is theirs.
    """
    if all(map(_is_plain, set(text))):
        return tuple(_SPLIT.findall(text))
    composed = unicodedata.normalize("NFC", text)
    visible = [char for char in composed if char in _JOINERS or not _is_invisible(char)]
    missing = {char for char in visible if char not in _JOINERS and _family(char) is None}
    _tell_once([char for char in visible if char in missing and char.isprintable()])
    drawn = "".join(_MISSING if char in missing else char for char in visible)
    return tuple(_join_runs(_SPLIT.findall(drawn)))


def _join_runs(parts: list[str]) -> list[str]:
    """Make one word of neighbours that run from right to left, with what stands between them."""
    found: list[str] = []
    run = None
    for word in parts:
        if _has_direction(word, _RIGHT_TO_LEFT):
            inside = word.rstrip(_PUNCTUATION)
            run = len(found) if run is None else run
            found[run:] = ["".join([*found[run:], inside])]
            # What ends a clause belongs to the line, which runs from left to right.
            found.extend(filter(None, [word[len(inside) :]]))
        else:
            found.append(word)
            if _has_direction(word, ("L",)):
                run = None
    return found


@lru_cache(maxsize=1024)
def advance(word: str) -> float:
    """Return how far the pen moves on over one of the `words`, in pixels."""
    return _measure(word) if _needs_shaping(word) else sum(_glyph(char)[1] for char in word)


@lru_cache(maxsize=512)
def pixels_of_word(word: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what one of the `words` covers, and how much.

    Lines hold numbers and are seldom the same twice; their words are.

    Returns:
        ys, xs [N] from the pen on, and coverage [N, 1] uint16 in 0..255.
    """
    width = math.ceil(advance(word)) + 4 * _FONT_SIZE
    if _needs_shaping(word):
        coverage = _rasterise(word, width)
    else:
        coverage = np.zeros((LINE, width), np.uint8)
        pen = float(_FONT_SIZE)
        for char in word:
            glyph, step = _glyph(char)
            start = round(pen) - _FONT_SIZE
            area = coverage[:, start : start + glyph.shape[1]]
            np.maximum(area, glyph[:, : area.shape[1]], out=area)
            pen += step
    ys, xs = np.nonzero(coverage)
    return ys, xs - _FONT_SIZE, coverage[ys, xs, None].astype(np.uint16)


@lru_cache(maxsize=4096)
def _glyph(char: str) -> tuple[np.ndarray, float]:
    """Return a character's coverage [LINE, 3 * size] uint8, pen at column size, and its advance."""
    return _rasterise(char, 3 * _FONT_SIZE), _measure(char)


def _rasterise(text: str, width: int) -> np.ndarray:
    """Return a text's coverage [LINE, width] uint8, pen at column size."""
    renderer = RendererAgg(width, LINE, 72)
    renderer.draw_text(renderer.new_gc(), _FONT_SIZE, LINE - 5, text, _font(text), 0, ismath=False)
    return np.array(renderer.buffer_rgba())[..., 3]


def _measure(text: str) -> float:
    renderer = RendererAgg(1, LINE, 72)
    both, pair = (
        renderer.get_text_width_height_descent(measured, _font(text), False)[0]
        for measured in (f"x{text}x", "xx")
    )
    return both - pair


def _needs_shaping(word: str) -> bool:
    return any(
        char in _JOINERS or unicodedata.category(char)[0] == "M" for char in word
    ) or _has_direction(word, _RIGHT_TO_LEFT)


def _has_direction(word: str, directions: tuple[str, ...]) -> bool:
    return any(unicodedata.bidirectional(char) in directions for char in word)


@lru_cache(maxsize=4096)
def _is_plain(char: str) -> bool:
    """Return whether a character is drawn by itself, as it is, in the first font."""
    return not _needs_shaping(char) and not _is_invisible(char) and _first_has(char)


def _is_invisible(char: str) -> bool:
    """Return whether a character only says how others are to be shown."""
    return unicodedata.category(char) == "Cf" or "VARIATION SELECTOR" in unicodedata.name(char, "")


def _font(text: str) -> FontProperties:
    families = [_family(char) for char in text if char not in _JOINERS]
    return _properties(tuple(dict.fromkeys([_first_family(), *filter(None, families)])))


@lru_cache(maxsize=256)
def _properties(families: tuple[str, ...]) -> FontProperties:
    return FontProperties(family=families, size=_FONT_SIZE)


@lru_cache(maxsize=1)
def _first_family() -> str:
    """Return the family that writes all it can."""
    installed = {entry.name for entry in matplotlib.font_manager.fontManager.ttflist}
    # matplotlib brings DejaVu Sans; where somebody removed it, any font is better than no picture.
    return "DejaVu Sans" if "DejaVu Sans" in installed else min(installed)


@lru_cache(maxsize=4096)
def _first_has(char: str) -> bool:
    path = matplotlib.font_manager.findfont(FontProperties(family=_first_family()))
    return _has(path, char)


# Of characters that the first family lacks; at most one entry for each that some font has.
_family_of: dict[str, Optional[str]] = {}
_told: list[str] = []


def _family(char: str) -> Optional[str]:
    """Return a family that has a character; None: no font has it."""
    if _first_has(char):
        return _first_family()
    if not char.isprintable():
        return None
    if char not in _family_of:
        if list(_family_of.values()).count(None) >= _MAX_SEARCHES:
            return None
        _family_of[char] = _search(char)
    return _family_of[char]


def _search(char: str) -> Optional[str]:
    entries = _other_fonts()
    for k, entry in enumerate(entries):
        if _has(entry.fname, char):
            # The next character is likely to be of the same script.
            entries.insert(0, entries.pop(k))
            return entry.name
    return None


@lru_cache(maxsize=1)
def _other_fonts() -> list[FontEntry]:
    """Return an upright face of each family, those first that should be tried first."""
    manager = matplotlib.font_manager.fontManager
    # matplotlib keeps a list on disk, which knows nothing of fonts installed after it was written.
    known = {str(entry.fname) for entry in manager.ttflist}
    for path in matplotlib.font_manager.findSystemFonts():
        if path not in known:
            with contextlib.suppress(Exception):  # not every file is a font that it can read
                manager.addfont(path)
    faces = {
        entry.name: entry
        for entry in reversed(manager.ttflist)
        if entry.style == "normal" and not entry.name.startswith(_NO_TEXT)
    }
    preferred = {name: k for k, name in enumerate(_CJK_FONTS)}
    rank = len(preferred)
    return sorted(
        faces.values(),
        key=lambda entry: (preferred.get(entry.name, rank), "Sans" not in entry.name, entry.name),
    )


def _has(path: str, char: str) -> bool:
    """Return whether a font file has a character as an outline, which alone can be drawn."""
    try:
        font = matplotlib.font_manager.get_font(path)
        return font.num_fixed_sizes == 0 and font.get_char_index(ord(char)) != 0
    except Exception:  # a file that is damaged or was removed
        return False


def _tell_once(chars: list[str]) -> None:
    """Say which characters no font has: of the first text that has any, for all of them."""
    if not chars or _told:
        return
    _told.extend(chars)
    log.warning(
        "no installed font has the characters %s: sheets show squares instead of these and others"
        " like them, until a font for their script is installed (Noto has one for nearly every"
        " script)",
        " ".join(dict.fromkeys(chars)),
    )
