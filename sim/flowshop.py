"""The pipeline of a model that is read while it is computed: disk, link and GPU work on different layers at a time.

Jobs are layers in the order of computing, one token's after another's; the pipeline goes on across tokens and never
drains. Between two stages lie so many buffers. A copy takes a buffer when it begins, and a buffer is free again when
the stage that reads it is done. Exact in integer picoseconds.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ticks = NDArray[np.int64]


def flow_shop(times_ps: Ticks, buffers: Sequence[int], known: Sequence[int] = ()) -> tuple[Ticks, Ticks]:
    """Return when each stage begins and ends each job.

    Stage s begins job j as soon as the stage before has ended it, s has ended job j - 1, and a buffer behind s is free,
    which is when the next stage has ended job j - buffers[s].

    Args:
        times_ps: of each stage and job, int64[stages, jobs]; a stage that has nothing to do for a job takes 0.
        buffers: between each stage and the next, at least 1, stages - 1 of them.
        known: of each stage, how many jobs before its own the last stage must have ended one for it to be known what is
            to be done; 0 where that is known from the start. A demand load that follows from what the layer before
            computes has 1.

    Returns:
        (beginnings, ends), each int64[stages, jobs].

    Raises:
        ValueError: sizes that do not belong together, no buffer, or a time below 0.
    """
    stages, jobs = times_ps.shape
    lags = tuple(known) or (0,) * stages
    if len(buffers) != stages - 1 or len(lags) != stages or min((1, *buffers)) < 1 or min((0, *lags)) < 0:
        raise ValueError(f"{stages} stages need {stages - 1} numbers of buffers from 1 and {stages} lags from 0")
    if (times_ps < 0).any():
        raise ValueError("a stage cannot take less than no time")
    if lags[-1]:
        raise ValueError("the last stage cannot wait for itself to have ended a job before")
    begin = [[0] * jobs for _ in range(stages)]
    end = [[0] * jobs for _ in range(stages)]
    rows = times_ps.tolist()
    last = end[-1]
    for job in range(jobs):
        for stage in range(stages):
            at = end[stage][job - 1] if job else 0
            if stage:
                at = max(at, end[stage - 1][job])
            if stage < stages - 1 and job >= buffers[stage]:
                at = max(at, end[stage + 1][job - buffers[stage]])
            if lags[stage] and job >= lags[stage]:
                at = max(at, last[job - lags[stage]])
            begin[stage][job] = at
            end[stage][job] = at + rows[stage][job]
    return np.array(begin, dtype=np.int64), np.array(end, dtype=np.int64)


def token_ends_ps(ends_ps: Ticks, layers: int) -> Ticks:
    """Return when each token is computed: the last stage's end of its last layer, int64[tokens].

    Args:
        ends_ps: of `flow_shop`.
        layers: jobs per token.
    """
    ends: Ticks = ends_ps[-1, layers - 1 :: layers]
    return ends


def waiting_ps(begins_ps: Ticks, ends_ps: Ticks) -> Ticks:
    """Return for how long the last stage waited for each job after the one before, int64[jobs]."""
    before = np.concatenate([[0], ends_ps[-1, :-1]])
    waited: Ticks = begins_ps[-1] - before
    return waited
