"""Everything about a worker but the arithmetic: its loop and process, its KV blocks by address, what it notes down.

Runs without torch, so that its tests, an emulator with timed compute, and a command that only reads what a run left
behind need none.
"""
