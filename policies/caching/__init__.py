"""Which neurons or experts of a layer stay in fast memory: policies over arrays of ids, and what they are shown."""
