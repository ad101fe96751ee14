"""The brain: every decision about requests, without a clock, without I/O, not knowing whose body it moves.

`Scheduler` is a worker's state machine; `batching` and `routing` hold the policies it and a router ask; `views` says
what a policy may see and `plans` what passes between scheduler and body. Imports none of the other packages: a
simulator, an emulator and an engine run this same code, and a decision log recorded by one replays in another.
"""
