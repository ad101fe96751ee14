"""Capacity: what one replica carries when the same mix of requests saturates it."""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from sim.body import Body
from sim.config import RunConfig
from sim.memory import MemoryPlan
from sim.recorder import StrideMeter
from sim.ticket import Ticket
from sim.workload import Saturation, Workload

TARGET_FRAC = 0.85
"""Share of capacity up to which devices are counted as enough: beyond it queues grow out of ordinary fluctuations."""
MIN_SAMPLE, MAX_SAMPLE = 256, 4096
TURNOVERS = 4


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


def measure_capacity(config: RunConfig, memory: MemoryPlan, workload: Workload, meter: StrideMeter) -> float | None:
    """Return requests per second that one replica finishes while its queue never runs empty.

    A sample of the workload's own requests, all there at once, large enough to turn the batch over several times; the
    first fifth of it and the tail after the queue has run empty are left out. None if nothing of it can be served.
    """
    mix = workload.sample(MAX_SAMPLE, config.seed)
    mean_tokens = max(1.0, float(np.mean([ticket.prompt_tokens + ticket.output_tokens for ticket in mix])))
    together = min(config.policies.max_seqs, memory.kv_blocks * config.policies.block_tokens / mean_tokens)
    size = int(np.clip(TURNOVERS * together, MIN_SAMPLE, MAX_SAMPLE))
    if len(mix) < size and workload.prefix_unit_tokens is None:
        mix = [mix[i % len(mix)] for i in range(size)]
    saturation = Saturation(mix[:size], workload.prefix_unit_tokens)
    single = replace(
        config.deployment,
        count=config.deployment.gpus_per_replica,
        replicas=1,
        hosts=ceil(config.deployment.hosts / config.deployment.replicas),
    )
    probe = replace(config, deployment=single, workload=saturation, horizon_s=None, warmup_s=0.0, decisions=False)
    Body(probe, memory, saturation, meter, lambda _: None).run()
    return throughput([t for t in saturation.submitted if t.finish_ps is not None])


def throughput(done: list[Ticket]) -> float | None:
    """Return requests per second between the finish of the first fifth and the last admission (or the last finish)."""
    if not done:
        return None
    finishes = np.sort(np.array([ticket.finish_ps for ticket in done], dtype=np.float64)) * 1e-12
    last_admission = max(ticket.scheduled_ps or 0 for ticket in done) * 1e-12
    first = len(finishes) // 5
    last = int(np.searchsorted(finishes, last_admission, side="right")) - 1
    if last - first < len(finishes) // 5:  # hardly any queue: the whole sample fits at once
        return len(finishes) / float(finishes[-1])
    return (last - first) / float(finishes[last] - finishes[first])


def load_of(
    config: RunConfig, per_replica: float | None, accepted: int, last_arrival_s: float, open_loop: bool
) -> Load:
    """Compare what was offered with what the deployment can carry."""
    if per_replica is None:
        return Load(None, None, None)
    deployment = config.deployment
    capacity = per_replica * deployment.replicas
    if not open_loop or accepted < 2 or last_arrival_s <= 0.0:
        return Load(None, capacity, None)
    offered = (accepted - 1) / last_arrival_s
    replicas = ceil(offered / per_replica / TARGET_FRAC - 1e-9)
    return Load(offered / capacity, capacity, max(1, replicas) * deployment.gpus_per_replica)
