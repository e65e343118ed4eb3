"""What the visualisation costs, measured: ``python -m tests.benchmarks``.

Every figure is a ratio of times taken next to each other in one process, or a difference within it,
so that a slow or busy machine shows both sides alike. Each is repeated, and reported as the median
with the smallest and the largest repetition.

Parts, one module each: `blocked` (what the training thread pays per event), `drawing` (what the
worker pays, against other ways to draw), `growth` (with categories, frames and frame size),
`training` (whole training with pictures against without), `memory`, and `cuda`.
"""
