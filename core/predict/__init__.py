"""``python -m core.predict``: track objects in a video of one's own.

settings.py      what the command line takes
source.py        the movie or folder of images, and which of its frames
prompt_files.py  prompts as PNGs or JSON
draw.py          a first frame with a grid of pixels and prompts to fill in
program.py       tracks and writes masks and a film
"""
