"""Published rows with experts in host memory: each is timed as a run would be, and the shipped shares are the fit's."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.fidelity.offload.fit import (
    PRIOR,
    fit,
    gpu_spread,
    held_out,
    host_spread,
    source_weights,
    weighted_quantile,
)
from afterwatt.fidelity.offload.score import Shares, Timed, timed
from afterwatt.fidelity.offload.section import with_shares
from afterwatt.fidelity.offload.table import read_offload
from afterwatt.hwprofiles.hostwork import TIERS_FILE, host_work
from afterwatt.hwprofiles.roofline import PS_PER_S
from afterwatt.sim.times import times_of
from tests.helpers import make_config, solo_batch


@pytest.fixture(scope="module")
def cases() -> list[Timed]:
    rows, _ = read_offload()
    return [timed(row) for row in rows]


def shipped() -> Shares:
    work = host_work()
    return Shares(work.few_channels_frac, work.many_channels_frac, work.second_socket_frac, work.hand_over_s)


def test_every_row_is_run_or_says_why(cases: list[Timed]) -> None:
    _, left = read_offload()
    assert all(why for _, why in left)
    assert len({case.row.source for case in cases}) > 5


def test_a_row_takes_the_time_that_a_run_takes(cases: list[Timed]) -> None:
    """The closed form over stages, and the law that the simulator's stages have, to the rounding of picoseconds."""
    for case in cases[::7]:
        serving = case.row.serving()
        config = make_config(solo_batch(1, 8, 8), serving.deployment, case.row.policy, model=case.row.model)
        config = replace(config, model=serving.model, precision=serving.precision, stack=serving.stack)
        context, total = round(case.row.context_tokens), 0
        for number in range(serving.pool.pp):
            times = times_of(config, number)
            total += times.step(1, context, (), 1, 1)[0] + (times.hop_ps(1) if number else 0)
        assert case.token_s(shipped()) * PS_PER_S == pytest.approx(total, rel=1e-9)


def test_a_fit_finds_the_shares_that_made_the_rows(cases: list[Timed]) -> None:
    made = Shares(0.62, 0.45, 0.7, 1.3e-4)
    exact = [replace(case, row=replace(case.row, value=1.0 / case.token_s(made))) for case in cases]
    found = fit(exact)
    assert found == pytest.approx(made, rel=0.12)  # priors pull a little
    assert all(abs(np.log(f / m)) <= abs(np.log(p / m)) + 1e-6 for f, m, p in zip(found, made, PRIOR, strict=True))


def test_what_is_shipped_is_what_the_fit_finds(cases: list[Timed]) -> None:
    """`python benchmarks/fidelity.py --offload` puts right what fails here."""
    said = TIERS_FILE.read_text(encoding="utf-8")
    assert with_shares(said, fit(cases), host_spread(cases)) == said
    other = with_shares(said, PRIOR, (0.5, 2.0))
    assert "few_channels_frac = { value = 0.5, low = 0.25, high = 1, source" in other
    assert other.count("\n") == said.count("\n")


def test_each_source_is_predicted_without_itself(cases: list[Timed]) -> None:
    """However wrong a source's own figures are, the shares that predict it stay the same."""
    wrong = [
        replace(case, row=replace(case.row, value=case.row.value * 3.0)) if "548" in case.row.source else case
        for case in cases
    ]
    mine = [number for number, case in enumerate(cases) if "548" in case.row.source]
    whole, other = held_out(cases), held_out(wrong)
    assert mine
    assert all(whole.shares[number] == other.shares[number] for number in mine)
    np.testing.assert_allclose(other.errors()[mine], (whole.errors()[mine] + 1.0) / 3.0 - 1.0, rtol=1e-12)


def test_a_range_holds_what_it_is_made_to_hold(cases: list[Timed]) -> None:
    found = held_out(cases)
    for number, case in enumerate(cases):
        low, high = found.spread[number]
        assert 0.0 < low <= 1.0 <= high
        exact = replace(case, row=replace(case.row, value=1.0 / case.token_s(found.shares[number])))
        alone = replace(found, cases=[exact], shares=[found.shares[number]], spread=[found.spread[number]])
        assert alone.covered().all()
        fast, slow = gpu_spread(case)
        longest = case.gpu_s * slow + (1.0 / exact.row.value - case.gpu_s) * high
        beyond = replace(exact, row=replace(exact.row, value=1.0 / (longest * 1.001)))
        assert not replace(alone, cases=[beyond]).covered().any()
        assert fast < slow


def test_sources_weigh_alike(cases: list[Timed]) -> None:
    weights = source_weights(cases)
    sources = {case.row.source for case in cases}
    for source in sources:
        mine = [case.row.source == source for case in cases]
        assert weights[mine].sum() == pytest.approx(1.0 / len(sources))


@given(st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_a_weighted_quantile_has_at_least_its_share_below(values: list[float], share: float) -> None:
    numbers = np.array(values)
    found = weighted_quantile(numbers, np.ones(len(numbers)), share)
    assert (numbers <= found).mean() >= share - 1e-9
    assert (numbers < found).mean() < share
