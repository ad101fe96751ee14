"""Held against what others measured: published points, how to run each through the simulator, the fit, the scores.

`points` reads a table of measurements, `scenario` turns a row into a run (or says why not), `predict` runs it through
the simulator and `score` says how far off it was. Nothing here predicts by itself: times and joules come from `sim`,
which is why this package stands above it. It knows nothing of the command line.
"""
