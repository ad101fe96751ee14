"""Capacity: what one replica carries when the same mix of requests saturates it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from math import ceil

import numpy as np
from numpy.typing import NDArray

from afterwatt.policies.weights import is_cached
from afterwatt.sim.body import Body
from afterwatt.sim.config import RunConfig
from afterwatt.sim.memory import MemoryPlan
from afterwatt.sim.ticket import Ticket
from afterwatt.sim.times import times_of
from afterwatt.sim.workload import Lengths, Saturation, Workload

TARGET_FRAC = 0.85
"""Share of capacity up to which devices are counted as enough: beyond it queues grow out of ordinary fluctuations."""
MIN_SAMPLE, MAX_SAMPLE = 256, 4096
CACHED_SAMPLE = 16
"""Requests of the sample where caches decide what each iteration moves, at thousands of times the work of others."""
TURNOVERS = 5


@dataclass(frozen=True, slots=True)
class Load:
    """Offered load against capacity, as in summary.json.

    Attributes:
        offered_frac: accepted requests per second over capacity (None: the workload waits for its answers).
        capacity_requests_per_s: of the whole deployment; None where no request fits.
        devices_needed: GPUs that carry the offered load at `TARGET_FRAC` of their capacity.
    """

    offered_frac: float | None
    capacity_requests_per_s: float | None
    devices_needed: int | None


def measure_capacity(config: RunConfig, memory: MemoryPlan, workload: Workload) -> float | None:
    """Return requests per second that one replica finishes while its queue never runs empty.

    A sample of the workload's own requests, all there at once, large enough to turn the batch over several times. What
    the window between the first fifth of it and the last admission finishes is counted in work, by a weight per prompt
    and per output token, and divided by the mean work of a larger sample: a few long requests more or less in the
    window do not matter then. None if nothing of it can be served.
    """
    mix = workload.sample(MAX_SAMPLE, config.seed)
    most = most_tokens(config, memory)
    lengths = lengths_of(mix)
    fits = lengths.sum(axis=1) <= most
    if not fits.any():
        return None
    served = list(compress(mix, fits.tolist()))
    together = tokens_in_memory(config, memory) / float(lengths[fits].sum(axis=1).mean())
    together = min(config.policies.max_seqs, max(1.0, together))
    size = int(np.clip(TURNOVERS * together, MIN_SAMPLE, MAX_SAMPLE))
    if is_cached(config.policies.weights):
        size = CACHED_SAMPLE
    sample = [served[i % len(served)] for i in range(size)] if workload.prefix_unit_tokens is None else served[:size]
    saturation = Saturation(sample, workload.prefix_unit_tokens)
    pool = config.deployment.pool
    alone = replace(pool, replicas=1, hosts=ceil(pool.hosts / pool.replicas))
    single = config.deployment.with_pool(alone)
    probe = replace(config, deployment=single, workload=saturation, horizon_s=None, warmup_s=0.0, decisions=False)
    Body(probe, memory, saturation, None, None).run()
    weights = np.array(token_weights(config, int(together)))
    done = [ticket for ticket in saturation.submitted if ticket.finish_ps is not None]
    return throughput(done, float((lengths[fits] @ weights).mean()), weights)


def lengths_of(requests: Sequence[Ticket] | Sequence[Lengths]) -> NDArray[np.float64]:
    """Return the prompt and output tokens of requests, a row each."""
    prompts, outputs = [one.prompt_tokens for one in requests], [one.output_tokens for one in requests]
    return np.column_stack([prompts, outputs]).astype(np.float64)


def most_tokens(config: RunConfig, memory: MemoryPlan) -> int:
    """Return the longest prompt and output together that are not refused: by the model's context, or by memory."""
    blocks = memory.kv_blocks - int(config.policies.watermark_frac * memory.kv_blocks)
    return min(config.model.max_context, blocks * config.policies.block_tokens + 1)  # the last token's KV is not kept


def tokens_in_memory(config: RunConfig, memory: MemoryPlan) -> float:
    """Return how many tokens' KV fits."""
    return float(memory.kv_blocks * config.policies.block_tokens)


def token_weights(config: RunConfig, together: int) -> tuple[float, float]:
    """Return what a prompt token and an output token cost in a full iteration, relative to each other."""
    times = times_of(config)
    budget = config.policies.token_budget
    prompt_ps = times.step(0, 0, ((None, budget, 0),), 1, 1)[0] / budget
    output_ps = times.step(together, together * 512, (), together, 1)[0] / together
    return prompt_ps, output_ps


def throughput(done: list[Ticket], mean_work: float, weights: NDArray[np.float64]) -> float | None:
    """Return requests per second by the work done between the first fifth's finish and the last admission.

    `mean_work`: of a request; `weights`: work per prompt token and per output token.
    """
    if not done:
        return None
    done = sorted(done, key=lambda ticket: (ticket.finish_ps or 0, ticket.seq_id))
    finishes = np.array([ticket.finish_ps for ticket in done], dtype=np.float64) * 1e-12
    # What finishes together is on one side of the window's beginning.
    first = int(np.searchsorted(finishes, finishes[len(done) // 5], side="right")) - 1
    last = int(np.searchsorted(finishes, max(t.scheduled_ps or 0 for t in done) * 1e-12, side="right")) - 1
    if last - first < len(done) // 5:  # hardly any queue: the whole sample fits at once
        return len(done) / float(finishes[-1])
    work = (lengths_of(done[first + 1 : last + 1]) @ weights).sum()
    return float(work / (finishes[last] - finishes[first]) / mean_work)


def load_of(
    config: RunConfig, per_replica: float | None, accepted: int, last_arrival_s: float, open_loop: bool
) -> Load:
    """Compare what was offered with what the deployment can carry."""
    if per_replica is None:
        return Load(None, None, None)
    deployment = config.deployment
    capacity = per_replica * deployment.pool.replicas
    if not open_loop or accepted < 2 or last_arrival_s <= 0.0:
        return Load(None, capacity, None)
    offered = (accepted - 1) / last_arrival_s
    replicas = ceil(offered / per_replica / TARGET_FRAC - 1e-9)
    return Load(offered / capacity, capacity, max(1, replicas) * deployment.pool.gpus_per_replica)
