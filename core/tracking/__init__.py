"""Whole videos through Meta's own predictor, in memory that does not grow with their length.

    settings.py      the weights, as the command line names them
    weights.py       a run, a checkpoint or a file of weights as Meta's predictor
    frames.py        the frames of a video, one at a time
    movie.py         the frames of a movie file
    prompts.py       what the predictor is told about an object, and where
    tracker.py       prompts and frames in, masks out, frame by frame
    clicks.py        an image: a prompt, then clicks where the mask is wrong
    directions.py    the frames before an object's first prompt as well
    masks.py         masks as PNGs, as public evaluators and servers expect them
    labels.py        text in pictures
    precision.py     half precision
    film.py          tracked frames as a film

``python -m core.evaluate`` and ``python -m core.predict`` are built on these.
"""
