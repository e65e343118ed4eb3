"""PNGs of whole numbers, read several times faster than by Pillow: masks are most of what is read.

Programs that write palettes store the bytes as they are, which takes no more than inflating them.
"""

import struct
from pathlib import Path
from typing import Optional

import numpy as np

try:
    from isal import isal_zlib as deflate
except ImportError:
    import zlib as deflate  # type: ignore[no-redef]  # the same functions, only slower

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")
_GREY, _PALETTE = 0, 3
# A file of more bytes is not taken into memory as a whole.
_MOST_BYTES = 2**26
# The chunk's length, its name and its checksum.
_AROUND = 12


def read_plain_png(path: Path) -> Optional[np.ndarray]:
    """Return the numbers of a PNG that stores them as they are, one byte each.

    Returns:
        uint8 [H, W], which may be written to; None where the file is of another kind, or where
        anything about it is unusual: Pillow reads it, or says what is wrong.
    """
    if path.stat().st_size > _MOST_BYTES:
        return None
    chunks = _chunks(path.read_bytes())
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != _HEADER.size:
        return None
    width, height, depth, kind, *method = _HEADER.unpack(chunks[0][1])
    if depth != 8 or kind not in (_GREY, _PALETTE) or any(method) or not width * height:
        return None
    return _inflate(b"".join(part for name, part in chunks if name == b"IDAT"), height, width)


def _chunks(data: bytes) -> Optional[list[tuple[bytes, bytes]]]:
    """Return (name, content) of all chunks up to the last, None where one is damaged."""
    if not data.startswith(_SIGNATURE):
        return None
    found, at = [], len(_SIGNATURE)
    while at + _AROUND <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            return None
        if deflate.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return None
        found.append((data[at + 4 : at + 8], data[at + 8 : end]))
        if found[-1][0] == b"IEND":
            return found
        at = end + 4
    return None


def _inflate(packed: bytes, height: int, width: int) -> Optional[np.ndarray]:
    inflater = deflate.decompressobj()
    try:
        # one byte more than there should be: a small file may unpack to any size
        raw = inflater.decompress(packed, height * (width + 1) + 1)
    except Exception:  # each library raises its own
        return None
    if len(raw) != height * (width + 1) or not inflater.eof:
        return None
    lines = np.frombuffer(raw, np.uint8).reshape(height, width + 1)
    # each line begins with how it was changed before it was packed: 0 not at all
    return None if lines[:, 0].any() else lines[:, 1:].copy()
