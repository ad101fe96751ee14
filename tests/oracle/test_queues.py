"""One request at a time makes a replica a queue of the textbook: Lindley's recursion path by path, and the formulas.

Service times are those of single requests, known exactly; arrivals are Poisson. Averages are taken over independent
replications, and the theory must lie within a 99 % t-interval that is itself bounded.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.sim.workload import StaticBatch
from tests.helpers import PS_PER_S, S_PER_PS, Requests, make_config, run_body

ONE_BY_ONE = "prefill-first+seqs=1"
MODEL = {"model": "qwen2.5-0.5b"}
PROMPT = 20


@cache
def service_ps() -> tuple[int, ...]:
    """How long a request of `PROMPT` tokens takes, by its output tokens (from 1 on)."""
    config = make_config(StaticBatch(1, 1, 1), **MODEL)
    times = TimeModel(config.serving)
    total = [times.step(0, 0, ((None, PROMPT, 0),), 1, 1)[0]]
    for k in range(1, 8000):
        total.append(total[-1] + times.step(1, PROMPT + k, (), 1, 1)[0])
    return tuple(total)


def lindley(arrivals_ps: list[int], services_ps: list[int]) -> list[int]:
    """Waiting times: W' = max(0, W + S - A), Lindley 1952."""
    waits, wait = [], 0
    for number, service in enumerate(services_ps):
        waits.append(wait)
        if number + 1 < len(arrivals_ps):
            wait = max(0, wait + service - (arrivals_ps[number + 1] - arrivals_ps[number]))
    return waits


def waits_of(arrivals_ps: list[int], outputs: list[int]) -> list[int]:
    requests = Requests(arrivals_ps, [PROMPT] * len(outputs), outputs)
    outcome = run_body(requests, policy=ONE_BY_ONE, keep_log=False, **MODEL)
    return [ticket.scheduled_ps - ticket.arrival_ps for ticket in outcome.tickets]


@given(
    st.lists(st.tuples(st.integers(0, 4 * 10**12), st.integers(1, 120)), min_size=1, max_size=40),
)
@settings(max_examples=50, deadline=None)
def test_every_wait_is_lindleys(requests):
    arrivals = np.cumsum([gap for gap, _ in requests]).tolist()
    outputs = [output for _, output in requests]
    services = [service_ps()[output - 1] for output in outputs]
    assert waits_of(arrivals, outputs) == lindley(arrivals, services)


def test_a_request_that_arrives_when_the_one_before_ends_does_not_wait():
    first = service_ps()[9]
    assert waits_of([0, first, 2 * first - 1], [10, 10, 10]) == [0, 0, 1]


@dataclass(frozen=True)
class Estimate:
    """A mean over replications with its 99 % interval."""

    mean: float
    half_width: float

    def holds(self, theory: float, most: float) -> bool:
        """Whether the interval is narrower than a share of the theory, and holds it."""
        return self.half_width <= most * theory and abs(self.mean - theory) <= self.half_width


def mean_wait_s(rate_per_s: float, outputs, replications: int, count: int, warmup: int) -> Estimate:
    """Mean wait in seconds of Poisson arrivals; `outputs` draws output tokens from a generator."""
    means = []
    for number in range(replications):
        draw = np.random.default_rng([number, 42])
        arrivals = np.rint(np.cumsum(draw.exponential(1.0 / rate_per_s, count)) * PS_PER_S).astype(np.int64)
        waits = waits_of((arrivals - arrivals[0]).tolist(), outputs(draw, count).tolist())
        means.append(float(np.mean(waits[warmup:])) * S_PER_PS)
    spread = np.std(means, ddof=1) / np.sqrt(replications)
    return Estimate(float(np.mean(means)), float(stats.t.ppf(0.995, replications - 1) * spread))


def test_md1():
    """Equal requests: rho S / (2 (1 - rho))."""
    service_s = service_ps()[29] * S_PER_PS
    rho = 0.6
    estimate = mean_wait_s(rho / service_s, lambda _, count: np.full(count, 30), 12, 2500, 300)
    assert estimate.holds(rho * service_s / (2.0 * (1.0 - rho)), most=0.08)


def exponential_outputs(mean_s: float):
    """Output tokens whose service time is nearest to an exponential draw."""
    ladder = np.array(service_ps()) * S_PER_PS
    edges = (ladder[1:] + ladder[:-1]) / 2.0

    def draw_outputs(draw: np.random.Generator, count: int) -> np.ndarray:
        return np.searchsorted(edges, draw.exponential(mean_s, count)) + 1

    return draw_outputs


def test_mm1():
    """Exponential service, on a ladder of 500 tokens to the mean: rho S / (1 - rho)."""
    mean_s = service_ps()[499] * S_PER_PS
    rho = 0.6
    estimate = mean_wait_s(rho / mean_s, exponential_outputs(mean_s), 12, 4000, 400)
    assert estimate.holds(rho * mean_s / (1.0 - rho), most=0.12)


def test_mg1():
    """Geometric lengths, whose service times are what they are: lambda E[S^2] / (2 (1 - rho)), Pollaczek-Khinchine."""
    ladder = np.array(service_ps()) * S_PER_PS
    success = 1.0 / 60.0
    share = success * (1.0 - success) ** np.arange(len(ladder))
    mean_s, mean_square = float(share @ ladder), float(share @ ladder**2)
    rho = 0.5
    rate = rho / mean_s
    estimate = mean_wait_s(rate, lambda draw, count: draw.geometric(success, count), 12, 3000, 300)
    assert estimate.holds(rate * mean_square / (2.0 * (1.0 - rho)), most=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.3, 0.8])
def test_mm1_at_light_and_heavy_load(rho):
    mean_s = service_ps()[499] * S_PER_PS
    estimate = mean_wait_s(rho / mean_s, exponential_outputs(mean_s), 20, 12_000, 2_000)
    assert estimate.holds(rho * mean_s / (1.0 - rho), most=0.12)
