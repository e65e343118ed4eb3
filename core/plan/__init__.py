"""What will fit: probes of real steps, a model of what they needed, a table of choices.

`sizes` says where to probe, `probe` takes steps in a process of its own, `fit` predicts what was
not probed, `program` makes the table, ``__main__`` reads the command line.
"""
