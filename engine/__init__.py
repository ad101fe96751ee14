"""The real body: a model that really runs, moved by the same brain as the simulator.

`runtime` knows no torch: a worker's loop, its processes, physical KV blocks, meters, records. `model` is torch: layers,
the KV pool, sampling. The runtime is given something to compute with (`runtime.compute.Compute`) and never asks what.
"""
