"""How good predictions are, and what is wrong with a training.

    masks.py     how well masks agree: F, and IoU, whose mean is the same on curves and on sheets
    outcomes.py  the one outcome of each object and frame, how often each is, IoU by distance
    video.py     J, F, IoU and Dice of a validation, one row per object, over all ranks
    rounds.py    clips of one frame: IoU after each round of clicks
    doctor.py    rules on the numbers of a validation, and their history

Nothing here touches a model: masks and numbers come in, numbers and words go out.
"""
