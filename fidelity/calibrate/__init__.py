"""The attached device measured, and what the simulator needs of it written: profile, kernel table, stack.

`measure` runs the engine's probes in turn; `profile` turns what they say into a hardware profile, `stack` into a
software stack; `files` writes all of it. Torch comes in by `engine.model.bench` only, when something is measured.
"""
