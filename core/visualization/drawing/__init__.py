"""From a clip to pixels.

sheet.py      layout and words of a sheet
composite.py  one frame as a row of panels, from arrays alone
canvas.py     text and markers
paint.py      masks
"""
