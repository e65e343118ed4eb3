"""From a clip to pixels.

sheet.py      layout and words of a sheet
distances.py  IoU of a validation by frames since the last prompt
strips.py     what became of each object of a validation, frame by frame
composite.py  one frame as a row of panels, from arrays alone
canvas.py     words and markers on the sheet of paper
text.py       words as pixels, fonts
paint.py      masks
"""
