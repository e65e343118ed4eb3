"""The run book: one page about a run, or several runs side by side, that opens anywhere."""
