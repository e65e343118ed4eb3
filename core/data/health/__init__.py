"""The health of a data set, in pictures: what is unusual, what shows it, what to do.

scan.py        reads masks in worker processes, as many as a minute allows, or all
measure.py     boxes, sizes, specks and holes of the masks of a frame
alignment.py   whether masks lie on the edges of their frame
likeness.py    frames that look the same
problems.py    rules on these numbers
collect.py     what both splits hold, and all that was found in them
pictures.py    draws what was found
page.py        index.html: all of it on one page, which needs no other file
"""
