"""``python -m core.predict``: track objects in a video of one's own."""
