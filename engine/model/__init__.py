"""The arithmetic of the engine, in plain ATen operations that every GPU since Maxwell and every CPU has.

Checkpoints in, tokens out: weights, layers, paged attention, sampling. Decides nothing: who runs next, and which block
of memory is whose, is told to it with every iteration.
"""
