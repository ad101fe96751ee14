"""Drawn tokens have the distribution they claim, and depend on seed and position alone."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2, chi2_contingency

from afterwatt.engine.model.sampling import _mixed, choose, gumbel_noise
from afterwatt.engine.runtime.compute import GREEDY, Sampling
from afterwatt.engine.runtime.errors import EngineError
from tests.engine.model.tiny import VOCAB, Sequence, batch_of, generate, load

LEVEL = 1e-3
"""Chance that a sound generator fails one of these tests; the seeds are fixed, so that it passes always or never."""
SEEDS = range(20_000)
LOGITS = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, 0.5, -3.0, 1.5])


def draws(count_by: str, **how) -> np.ndarray:
    sampling = [Sampling(seed=seed if count_by == "seed" else 7, **how) for seed in SEEDS]
    positions = [11 if count_by == "seed" else seed for seed in SEEDS]
    return np.array(choose(LOGITS.expand(len(SEEDS), -1), sampling, positions))


def test_the_counter_is_splitmix64():
    """First outputs for the state 1234567, as published with the reference code (Vigna, splitmix64.c)."""
    golden = 0x9E3779B97F4A7C15
    states = [(1234567 + i * golden) % 2**64 for i in range(5)]
    signed = torch.tensor([state - 2**64 if state >= 2**63 else state for state in states])
    assert [int(value) % 2**64 for value in _mixed(signed)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("count_by", ["seed", "position"])
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.5, 0), (2.0, 0), (1.0, 3), (0.7, 6), (1.0, 99)])
def test_tokens_are_distributed_as_the_softmax(count_by: str, temperature: float, top_k: int):
    kept = torch.argsort(LOGITS, descending=True)[: top_k or None]
    shares = torch.zeros(len(LOGITS), dtype=torch.float64)
    shares[kept] = torch.softmax(LOGITS[kept].double() / temperature, 0)
    counts = np.bincount(draws(count_by, temperature=temperature, top_k=top_k), minlength=len(LOGITS))
    wanted = shares.numpy() * len(SEEDS)
    assert not counts[wanted == 0].any()
    seen = wanted > 0
    statistic = float(((counts[seen] - wanted[seen]) ** 2 / wanted[seen]).sum())
    assert statistic < chi2.ppf(1 - LEVEL, seen.sum() - 1)


@pytest.mark.parametrize("count_by", ["seed", "position"])
def test_neighbouring_seeds_and_positions_are_independent(count_by: str):
    found = draws(count_by, temperature=2.0)
    table = np.zeros((len(LOGITS), len(LOGITS)))
    np.add.at(table, (found[:-1], found[1:]), 1)
    assert chi2_contingency(table).pvalue > LEVEL


def test_noise_is_standard_gumbel():
    """Mean Euler's constant, variance pi^2 / 6, within five standard errors."""
    noise = gumbel_noise(torch.arange(100), torch.arange(100), 1000).numpy()
    assert np.isfinite(noise).all()
    assert abs(noise.mean() - np.euler_gamma) < 5 * np.pi / np.sqrt(6 * noise.size)
    assert abs(noise.var() - np.pi**2 / 6) < 5 * np.sqrt((22 / 5 - 1) * (np.pi**2 / 6) ** 2 / noise.size)


def test_a_row_is_chosen_alike_in_any_company():
    logits = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    sampling = [
        Sampling(temperature=(row % 3) / 2, seed=-row if row % 2 else 2**64 - row, top_k=row % 5) for row in range(40)
    ]
    positions = [row * 7 % 11 for row in range(40)]
    together = choose(logits, sampling, positions)
    alone = [choose(logits[row : row + 1], [sampling[row]], [positions[row]])[0] for row in range(40)]
    assert together == alone
    order = np.random.default_rng(0).permutation(40)
    permuted = choose(logits[torch.from_numpy(order)], [sampling[i] for i in order], [positions[i] for i in order])
    assert permuted == [together[i] for i in order]


def test_cold_is_the_likeliest_and_so_is_one_of_one():
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    best = logits.argmax(-1).tolist()
    assert choose(logits, [GREEDY] * 20, [0] * 20) == best
    assert choose(logits, [Sampling(1.0, seed, 1) for seed in range(20)], [0] * 20) == best


@pytest.mark.parametrize("how", [Sampling(-1.0), Sampling(float("nan")), Sampling(1.0, 0, -1)])
def test_nonsense_is_refused(how: Sampling):
    with pytest.raises(EngineError, match="must be 0 or more"):
        choose(torch.zeros(1, 5), [how], [0])


def test_logits_that_overflowed_are_refused():
    with pytest.raises(EngineError, match="not finite"):
        choose(torch.tensor([[0.0, float("nan")]]), [GREEDY], [0])
    with pytest.raises(EngineError, match="not finite"):
        choose(torch.tensor([[0.0, float("inf")]]), [GREEDY], [0])


@pytest.mark.parametrize("changes", [{}, {"graphs": True}, {"dtype": "fp16"}], ids=["plain", "padded", "fp16"])
def test_a_request_gets_its_tokens_whatever_it_is_batched_with(tiny, changes):
    folder, _ = tiny("llama")
    compute = load(folder, **changes)
    hows = [GREEDY, Sampling(1.0, 3), Sampling(0.8, 4, 20), Sampling(1.0, 3)]
    prompts = [[(7 * i + 3 * number) % VOCAB for i in range(5 + 9 * number)] for number in range(3)]
    prompts.append(prompts[1])  # the same request twice: the same text twice
    alone = [
        generate(compute, Sequence(list(prompt), list(range(20)), 0, how), 12)
        for prompt, how in zip(prompts, hows, strict=True)
    ]
    assert alone[1] == alone[3]
    blocks = np.random.default_rng(0).permutation(64).reshape(4, 16).tolist()
    company = [Sequence(list(prompt), own, 0, how) for prompt, own, how in zip(prompts, blocks, hows, strict=True)]
    for iteration in range(24):
        # They join one after another, and their prompts come in pieces.
        pieces = []
        for number, seq in enumerate(company):
            left = len(seq.tokens) - seq.past
            if iteration >= 2 * number and len(seq.tokens) < len(prompts[number]) + 12:
                pieces.append((seq, min(left, 9)))
        if not pieces:
            break
        batch = batch_of(pieces)
        by_table = {tuple(table): number for number, table in enumerate(blocks)}
        speaking = [by_table[tuple(t)] for t, emits in zip(batch.block_tables, batch.emits, strict=True) if emits]
        for seq, query in pieces:
            seq.past += query
        for number, (token,) in zip(speaking, compute.step(batch), strict=True):
            company[number].tokens.append(token)
    assert [seq.tokens[len(prompt) :] for seq, prompt in zip(company, prompts, strict=True)] == alone
