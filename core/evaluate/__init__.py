"""``python -m core.evaluate``: weights on whole videos, with the numbers of the public tools.

settings.py      what the command line takes; the settings of the weights' run come first
videos.py        whole videos of a data set, also the frames without annotation, and prompts
folder.py        the folder of results, and which of an earlier start can be gone on with
scores.py        J and F of each object on each annotated frame
protocols.py     which of them DAVIS, SA-V and LVOS count, and how they average
program.py       tracks, scores and writes, video by video
tables.py        objects.csv, frames.csv, summary.json
compare.py       what two weights gain and lose against each other
pictures.py      sheets and films of the worst videos
page/            evaluation.html
"""
