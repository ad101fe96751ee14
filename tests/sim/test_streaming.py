"""Long traces stream through: memory does not grow with them."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import PS_PER_S, Requests, run_body

ROOT = Path(__file__).parents[2]
DAY_PS = 86_400 * PS_PER_S

CHILD = """
    import sys
    import numpy as np
    from afterwatt.sim.run import simulate
    from afterwatt.sim.workload import TraceWorkload
    from tests.helpers import make_config
    from afterwatt.traces.schema import Batch, TraceInfo

    class Endless:
        info = TraceInfo("made", "made")

        def __init__(self, count):
            self.count = count

        def batches(self, size=8192):
            for start in range(0, self.count, size):
                number = np.arange(start, min(start + size, self.count))
                draw = np.random.default_rng(start)
                yield Batch(number * 0.05, draw.integers(10, 600, len(number)), draw.integers(1, 40, len(number)))

        def head(self, n):
            return next(self.batches(n))

    config = make_config(TraceWorkload(Endless(int(sys.argv[1]))), "4xa100-80")
    run = simulate(config, sys.argv[2])
    assert run.summary.requests.finished == int(sys.argv[1])
    # Not getrusage: what that says outlives exec, and so holds the size of the process that runs the tests.
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024)
"""


def peak_bytes(requests: int, out: Path) -> int:
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(requests), str(out)],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(child.stdout)


@pytest.mark.slow
def test_ten_times_the_requests_take_no_more_memory(tmp_path):
    few, many = (peak_bytes(count, tmp_path / str(count)) for count in (20_000, 200_000))
    assert many < 500e6
    assert many - few < 50e6  # 280 bytes for each further request would already be more


@pytest.mark.parametrize("hw", ["m40", "3xm40", "2xm40:pp2"])
def test_a_trace_may_last_longer_than_64_bits_of_picoseconds(hw):
    """They end at 106 days; BurstGPT lasts 121. Requests a few weeks apart, on replicas that idle for months."""
    gaps = [0, 20, 20, 20, 20, 20, 20, 110, 0, 1]
    arrivals = np.cumsum([gap * DAY_PS for gap in gaps], dtype=object).tolist()
    outcome = run_body(Requests(arrivals, [50] * 10, [20] * 10), hw, "chunked+round-robin")
    lone = run_body(Requests([0], [50], [20]), hw).tickets[0].finish_ps
    for ticket in outcome.tickets[:7]:
        assert ticket.finish_ps - ticket.arrival_ps == lone
    assert outcome.result.duration_s > 230 * 86_400
