"""Layers of every kind, counted matrix by matrix and token by token, and timed by the same counts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.hwprofiles import parse_deployment
from afterwatt.hwprofiles.effort import work
from afterwatt.hwprofiles.mixers import Bounded, StepShape
from afterwatt.hwprofiles.residence import (
    Pages,
    activation_bytes,
    pages_of,
    replica_kv_bytes,
    stage_weight_bytes,
    state_blocks,
    window_blocks,
)
from afterwatt.hwprofiles.roofline import LASTING, PS_PER_S, TimeModel, evenly_seen
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.hwprofiles.step import StepModel
from afterwatt.modelspecs import ModelSpec, load_precision
from afterwatt.modelspecs.layers import Latent, State
from afterwatt.modelspecs.padding import padded_shape
from afterwatt.modelspecs.work import windowed_pairs
from afterwatt.sim.memory import holding_of

HIDDEN, VOCAB = 64, 512
PLAIN = ModelSpec(
    name="tiny", family="generic", layers=6, hidden=HIDDEN, heads=4, kv_heads=2, head_dim=16, ffn=96, ffn_matrices=3,
    vocab=VOCAB, max_context=4096, norm="rms",
)  # fmt: skip
WINDOWS = replace(PLAIN, sliding_window=100, pattern="wwf")
LATENT = replace(
    PLAIN, kv_heads=4, head_dim=24, latent=Latent(q_rank=20, kv_rank=32, nope_dim=16, rope_dim=8, value_dim=12)
)
SPARSE = replace(PLAIN, experts=8, active_experts=2, ffn=32, shared_ffn=48, dense_layers=2, dense_ffn=96)
DELTA = State(
    kind="gated delta rule", width=80, matrix_params=HIDDEN * (240 + 80), vectors=40, state_bytes=5000,
    flops_per_token=7000,
)  # fmt: skip
STATES = replace(PLAIN, pattern="ssf", state=DELTA, query_gate=True)
ALONE = replace(PLAIN, pattern="SnF", state=DELTA, norms_per_layer=1)

ATTENTION = [(HIDDEN, 4 * 16), (HIDDEN, 2 * 16), (HIDDEN, 2 * 16), (4 * 16, HIDDEN)]
NETWORK = [(HIDDEN, 96), (HIDDEN, 96), (96, HIDDEN)]
LATENT_MATRICES = [
    (HIDDEN, 20), (20, 4 * (16 + 8)), (HIDDEN, 32 + 8), (32, 4 * 16), (32, 4 * 12), (4 * 12, HIDDEN),
]  # fmt: skip
SHARED = [(HIDDEN, 48), (HIDDEN, 48), (48, HIDDEN)]
EXPERT = [(HIDDEN, 32), (HIDDEN, 32), (32, HIDDEN)]
GATED = [*ATTENTION, (HIDDEN, 4 * 16)]
STATE_MATRICES = [(HIDDEN, 240), (80, HIDDEN)]


def size(matrices: list[tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in matrices)


def serving(model: ModelSpec, hw: str = "a100-80", **values: float) -> Serving:
    deployment = parse_deployment(hw)
    stack = load_stack(deployment.pool.device, "generic").with_values(values)
    return Serving(deployment, model, load_precision("fp16"), stack)


def plans(*numbers: float) -> StepShape:
    return StepShape(*(np.array([float(number)]) for number in numbers))


DECODING, CONTEXT, EMITS = 3, 900, 4
ONE_PIECE = 40
PAST = 60
SHAPE = plans(DECODING, CONTEXT, EMITS, ONE_PIECE, PAST, ONE_PIECE * PAST + ONE_PIECE * 41 // 2, ONE_PIECE**2)
TOKENS = DECODING + ONE_PIECE
HEAD = HIDDEN * VOCAB


@pytest.mark.parametrize("hw", ["a100-80", "2xa100-80:tp2"])
@pytest.mark.parametrize(
    ("model", "read", "multiplied"),
    [
        # (weights read, weights that each token is multiplied with) of all layers
        (PLAIN, 6 * size(ATTENTION + NETWORK), 6 * size(ATTENTION + NETWORK)),
        (WINDOWS, 6 * size(ATTENTION + NETWORK), 6 * size(ATTENTION + NETWORK)),
        (
            SPARSE,
            6 * size(ATTENTION) + 2 * size(NETWORK) + 4 * size(SHARED) + 4 * 8 * (1 - 0.75**TOKENS) * size(EXPERT),
            6 * size(ATTENTION) + 2 * size(NETWORK) + 4 * size(SHARED) + 4 * (2 * size(EXPERT) + HIDDEN * 8),
        ),
        (
            STATES,
            4 * size(STATE_MATRICES) + 2 * size(GATED) + 6 * size(NETWORK),
            4 * (size(STATE_MATRICES) + 3500) + 2 * size(GATED) + 6 * size(NETWORK),
        ),
        (
            ALONE,
            2 * (size(STATE_MATRICES) + size(NETWORK) + size(ATTENTION)),
            2 * (size(STATE_MATRICES) + 3500 + size(NETWORK) + size(ATTENTION)),
        ),
    ],
)
def test_weights_and_flops_matrix_by_matrix(model: ModelSpec, read: float, multiplied: float, hw: str) -> None:
    """Without a context: what is left is matrices, entries just written and read, and states."""
    done = work(StepModel(serving(model, hw)), plans(DECODING, 0, EMITS, ONE_PIECE, 0, 0, 0))
    attending = sum(count for kind, count in model.kinds().items() if kind.mixer in ("full", "window"))
    states = sum(count for kind, count in model.kinds().items() if kind.mixer == "state")
    entries = attending * 2 * 2 * 16 * (TOKENS + ONE_PIECE)  # written, and those of the piece read
    moved = 2 * (read + HEAD + entries) + states * 2 * DELTA.state_bytes * (DECODING + 1)
    assert done.hbm_bytes[0] == pytest.approx(moved, rel=1e-12)
    assert done.flops[0] == pytest.approx(2 * (multiplied * TOKENS + HEAD * EMITS), rel=1e-12)


@pytest.mark.parametrize(("hw", "tp"), [("a100-80", 1), ("2xa100-80:tp2", 2)])
def test_latent_attention_absorbs_when_it_decodes_and_unfolds_for_prompts(hw: str, tp: int) -> None:
    done = work(StepModel(serving(LATENT, hw)), SHAPE)
    copies = (tp - 1) * (HIDDEN * 20 + HIDDEN * 40)  # every GPU reads what leads to what all heads share
    weights = 6 * (size(LATENT_MATRICES + NETWORK) + copies) + HEAD
    latents = 40 * tp * (CONTEXT + PAST + TOKENS)  # read by who decodes and to be unfolded, and written
    unfolded = 4 * (16 + 8 + 12) * (PAST + PAST + ONE_PIECE)  # of before: written and read; of the piece: read
    assert done.hbm_bytes[0] == pytest.approx(2 * (weights + 6 * (latents + unfolded)), rel=1e-12)
    matrices = 2 * 6 * (size(LATENT_MATRICES + NETWORK) + copies) * TOKENS + 2 * HEAD * EMITS
    absorbed = 2 * 4 * (32 + 8 + 32) * CONTEXT  # scores with vector and rotary part, values from the vector
    pairs = 2 * 4 * (16 + 8 + 12) * (ONE_PIECE * PAST + ONE_PIECE * 41 // 2)
    again = 2 * 32 * 4 * (16 + 12) * PAST
    assert done.flops[0] == pytest.approx(matrices + 6 * (absorbed + pairs + again), rel=1e-12)
    slope = 6 * (2 * 4 * 72 * DECODING + 2 * 4 * 36 * ONE_PIECE**2 + 2 * 32 * 4 * 28 * ONE_PIECE)
    assert done.flops_slope[0] == pytest.approx(slope, rel=1e-12)


def test_a_window_bounds_what_some_layers_read_and_multiply() -> None:
    seen = Bounded(*(np.array([float(n)]) for n in (1, 270 + 99 + 40, 1 + 40, 270 + 3300, 1 + 1600)))
    step, without = StepModel(serving(WINDOWS)), StepModel(serving(replace(WINDOWS, pattern="sSf", state=DELTA)))
    done = work(step, SHAPE, seen)
    full = work(StepModel(serving(PLAIN)), SHAPE)
    entry, pair = 2 * 2 * 16 * 2, 4 * 4 * 16
    assert done.hbm_bytes[0] - full.hbm_bytes[0] == 4 * entry * (270 + 99 + 40 - (CONTEXT + PAST + ONE_PIECE))
    assert done.flops[0] - full.flops[0] == 4 * pair * (270 + 3300 - CONTEXT - (ONE_PIECE * PAST + ONE_PIECE * 41 // 2))
    assert done.hbm_slope_bytes[0] == entry * (4 * 41 + 2 * TOKENS)
    assert without.window is None


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 300), st.integers(0, 300), st.integers(1, 60), st.integers(2, 120))
def test_entries_within_a_window_counted_one_by_one(count: int, length: int, past: int, size: int, window: int) -> None:
    """Some sequences of a length that decode, and a piece of a prompt after what came before it."""
    shape = plans(count, count * length, count, size, past, size * past + size * (size + 1) // 2, size * size)
    seen = {key for token in range(past, past + size) for key in range(max(0, token - window + 1), token + 1)}
    bounded = shape.within(window)
    assert bounded.entries[0] == count * min(length, window) + len(seen)
    assert bounded.entries_slope[0] >= 0.0
    if length < window:
        assert bounded.entries_slope[0] >= count
    hidden = past >= window or size * past + size * (size + 1) // 2 > size * window
    if hidden and length != window:  # a further piece reads no more
        assert bounded.entries_slope[0] == (count if length < window else 0)
    assert shape.within(None).entries[0] == count * length + past + size


def test_a_piece_that_a_window_cuts_short_reads_no_more_than_before() -> None:
    """What came before it still lies in the window, and most of its own tokens see no beginning."""
    assert plans(0, 0, 0, 40, 40, 40 * 40 + 820, 1600).within(50).entries_slope[0] == 0.0


# -- time --------------------------------------------------------------------------------------------------------------

FREE = {"launch_s": 0.0, "prompt_launch_s": 0.0, "attention_block_s": 0.0, "attention_score_bytes": 0.0}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=9))
def test_a_padded_batch_takes_what_its_padded_shape_takes_but_for_what_sequences_cost_the_host(lengths) -> None:
    """And a batch of too unlike lengths what it holds; both for as many iterations as is said."""
    own = serving(PLAIN, **FREE, sequence_overhead_s=1e-3)
    plain = TimeModel(own)
    padded = TimeModel(replace(own, stack=replace(own.stack, decode_shape="padded")))
    count, held, longest = len(lengths), sum(lengths), max(lengths)
    first, slope, lasting = padded.step(count, held, (), count, 5, (longest, 1, LASTING))
    for ahead in range(lasting):
        rows, entries = count, held + count * ahead
        if (shape := padded_shape(count, longest + ahead, entries)) is not None:
            rows, entries = shape[0], shape[0] * shape[1]
        alike = plain.step(rows, entries, (), rows, 1)[0] - round((rows - count) * 1e-3 * PS_PER_S)
        assert first + slope * ahead == pytest.approx(alike, abs=2)
    even = padded.step(count, count * longest, (), count, 5)
    assert even == padded.step(count, count * longest, (), count, 5, (longest, 1, LASTING))


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.integers(1, 40))
def test_decoding_takes_what_each_sequence_sees(lengths: list[int], window: int) -> None:
    """Four layers of six see no more than the window: the time per entry is that of a model without one."""
    model = replace(WINDOWS, sliding_window=window)
    plain, windowed = TimeModel(serving(PLAIN, **FREE)), TimeModel(serving(model, **FREE))
    count, context = len(lengths), sum(lengths) + len(lengths)
    seen = sum(min(length + 1, window) for length in lengths)
    base = plain.step(count, 0, (), count, 1)[0]
    entry_ps = (plain.step(count, 10**6, (), count, 1)[0] - base) / 10**6
    found, _, _ = windowed.step(count, context, (), count, 1, (seen, 0, LASTING))
    assert found - base == pytest.approx(entry_ps * (2 * context + 4 * seen) / 6, abs=2 + 2 * context)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(0, 400), st.integers(1, 150), st.integers(1, 9), st.booleans())
def test_a_prompt_in_equal_pieces_is_its_pieces_one_by_one(size: int, past: int, window: int, n: int, beside) -> None:
    """Where a piece begins to reach out of the window, the law ends."""
    times = TimeModel(serving(replace(WINDOWS, sliding_window=window), **FREE))
    decoding, seen = (2, (2 * window, 0, LASTING)) if beside else (0, (0, 0, LASTING))
    context, done, total = decoding * 500, 0, 0
    while done < n:
        piece = ((None, size, past + done * size),)
        first, slope, steps = times.step(decoding, context + done * decoding, piece, 0, n - done, seen)
        assert 1 <= steps <= n - done
        for k in range(steps):
            alone = ((None, size, past + (done + k) * size),)
            single = times.step(decoding, context + (done + k) * decoding, alone, 0, 1, seen)[0]
            assert first + slope * k == single
            total += single
        done += steps
    assert total > 0


def test_a_prompt_that_a_window_holds_takes_what_it_takes_without() -> None:
    windowed, plain = TimeModel(serving(WINDOWS)), TimeModel(serving(PLAIN))
    for chunk in ((None, 64, 0), (None, 30, 70), (None, 100, 0)):
        one, other = (times.step(0, 0, (chunk,), 1, 1)[0] for times in (windowed, plain))
        assert one == pytest.approx(other, abs=9000)  # one picosecond for each pair at most
    longer = [times.step(0, 0, ((None, 2000, 2000),), 1, 1)[0] for times in (windowed, plain)]
    assert longer[0] < longer[1]


@given(st.integers(0, 400), st.integers(0, 400), st.integers(1, 200))
def test_pairs_within_a_window_token_by_token(new: int, past: int, window: int) -> None:
    pairs = sum(min(past + place, window) for place in range(1, new + 1))
    assert windowed_pairs(new, past, window) == pairs
    assert windowed_pairs(np.array([new]), np.array([past]), window)[0] == pairs


@given(st.integers(1, 9), st.integers(1, 500), st.integers(1, 300))
def test_sequences_of_one_length_fill_a_window_together(count: int, length: int, window: int) -> None:
    entries, growing, lasting = evenly_seen(count, count * length, window)
    for ahead in range(min(lasting, 5)):
        assert entries + growing * ahead == count * min(length + ahead, window)
    assert entries + growing * (lasting - 1) == count * max(window, min(length, window)) or growing == 0


def test_time_and_energy_of_a_state_follow_from_the_same_bytes() -> None:
    """Per sequence a state is read and written in each layer that has one; per token its arithmetic is done."""
    served = serving(STATES, **FREE)
    step, times = StepModel(served), TimeModel(served)
    stateless = TimeModel(serving(replace(STATES, state=replace(DELTA, state_bytes=0)), **FREE))
    for decoding in (1, 7):
        more_ps = times.step(decoding, 50, (), decoding, 1)[0] - stateless.step(decoding, 50, (), decoding, 1)[0]
        moved = 4 * 2 * DELTA.state_bytes * decoding
        assert more_ps == pytest.approx(moved / step.rates.attention.bytes_per_s * PS_PER_S, abs=4 * decoding)
    piece = ((None, 64, 0),)
    more_ps = times.step(0, 0, piece, 1, 1)[0] - stateless.step(0, 0, piece, 1, 1)[0]
    assert more_ps == pytest.approx(4 * 2 * DELTA.state_bytes / step.rates.attention.bytes_per_s * PS_PER_S, abs=4)
    idle = TimeModel(serving(replace(STATES, state=replace(DELTA, flops_per_token=0)), **FREE))
    more_ps = times.step(0, 0, piece, 1, 1)[0] - idle.step(0, 0, piece, 1, 1)[0]
    assert more_ps == pytest.approx(4 * 64 * 7000 / step.rates.attention.flops_per_s * PS_PER_S, abs=2)


def test_a_latent_entry_is_read_once_for_all_heads_and_multiplied_with_each() -> None:
    served = serving(LATENT, **FREE)
    rates, times = StepModel(served).rates.attention, TimeModel(served)
    per_entry = 6 * (40 * 2 / rates.bytes_per_s + 2 * 4 * 72 / rates.flops_per_s)
    first, slope, _ = times.step(3, 10**6, (), 3, 1)
    assert (first - times.step(3, 0, (), 3, 1)[0]) / 1e6 == pytest.approx(per_entry * PS_PER_S, abs=0.51)
    assert slope == pytest.approx(3 * per_entry * PS_PER_S, abs=2)
    beside = times.step(3, 10**6, ((None, 8, 0),), 3, 1)[0] - times.step(3, 0, ((None, 8, 0),), 3, 1)[0]
    assert beside / 1e6 == pytest.approx(per_entry * PS_PER_S, abs=0.51)


def test_what_comes_before_a_piece_is_unfolded_again() -> None:
    served = serving(LATENT, **FREE, mixed_query_rows=1.0)
    rates, times = StepModel(served).rates, TimeModel(served)
    more = times.step(0, 0, ((None, 128, 10_000),), 0, 1)[0] - times.step(0, 0, ((None, 128, 0),), 0, 1)[0]
    moved = (40 + 2 * 4 * 36) * 2 / rates.attention.bytes_per_s
    multiplied = 128 * 2 * 4 * 36 / rates.attention.flops_per_s + 2 * 32 * 4 * 28 / rates.matrices.flops_per_s
    assert more / 1e4 == pytest.approx(6 * (moved + multiplied) * PS_PER_S, rel=0.01)


def test_a_network_alone_has_one_all_reduce_and_half_of_the_overheads() -> None:
    for model, halves in ((PLAIN, 12), (ALONE, 6)):
        done = work(StepModel(serving(model, "2xa100-80:tp2")), SHAPE)
        assert done.link_bytes[0] == halves * TOKENS * HIDDEN * 2 * 2
        slow, fast = (
            TimeModel(serving(model, **FREE, layer_overhead_s=overhead_s)).step(1, 9, (), 1, 1)[0]
            for overhead_s in (1e-5, 0.0)
        )
        assert slow - fast == pytest.approx(halves / 2 * 1e-5 * PS_PER_S, abs=2)
        longer, shorter = (
            TimeModel(serving(model, launch_s=launch_s)).step(1, 9, (), 1, 1)[0] for launch_s in (2e-3, 1e-3)
        )
        assert longer - shorter == pytest.approx(halves / 2 * 1e-3 * PS_PER_S, abs=2)


@pytest.mark.parametrize("model", [PLAIN, WINDOWS, LATENT, SPARSE, STATES, ALONE])
def test_stages_of_a_pipeline_take_together_what_one_takes(model: ModelSpec) -> None:
    one, two = TimeModel(serving(model, **FREE)), serving(model, "2xa100-80:pp2", **FREE)
    for plan in ((3, 700, (), 3, 1), (2, 500, ((None, 40, 60),), 3, 1)):
        parts = [TimeModel(two, stage).step(*plan)[0] for stage in (0, 1)]
        overhead_ps = round(float(two.stack.step_overhead_s) * PS_PER_S)
        assert sum(parts) - overhead_ps == pytest.approx(one.step(*plan)[0], rel=1e-4)


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "layers", "pages"),
    [
        ("wwwwwf", 62, Pages(10, 1, 6)),  # Gemma 3 27B: 10 and 52
        ("wf", 24, Pages(12, 1, 1)),
        ("w", 32, Pages(32, 0, 1)),
        ("", 40, Pages(40, 1, 0)),
        ("wwwf", 48, Pages(12, 1, 3)),
        ("wwwwwfffff", 11, Pages(6, 1, 1)),  # 6 and 5: one more is cheaper than a group of one
        ("fffw", 28, Pages(7, 3, 1)),
        ("wwwwwwwfffff", 12, Pages(7, 1, 1)),  # 7 and 5: less than half again as many
        ("wwwff", 10, Pages(4, 1, 2)),  # 6 and 4: half again as many
    ],
)
def test_layers_are_grouped_to_share_blocks(pattern: str, layers: int, pages: Pages) -> None:
    window = 100 if "w" in pattern else None
    assert pages_of(replace(PLAIN, layers=layers, pattern=pattern, sliding_window=window)) == pages


def test_a_window_that_hides_nothing_is_none() -> None:
    wide = replace(WINDOWS, sliding_window=4096)
    assert wide.window is None
    assert pages_of(wide) == Pages(6, 1, 0)
    assert holding_of(serving(wide), 16) is None
    assert TimeModel(serving(wide)).step(3, 9000, (), 3, 9) == TimeModel(serving(PLAIN)).step(3, 9000, (), 3, 9)


@given(st.integers(1, 200), st.sampled_from([1, 4, 16, 64]))
def test_a_window_reaches_into_as_many_blocks_as_it_can_touch(window: int, block: int) -> None:
    served = serving(replace(WINDOWS, sliding_window=window))
    touched = [len({token // block for token in range(end - window, end)}) for end in range(window, window + block)]
    assert window_blocks(served, block) == max(touched)
    assert window_blocks(serving(PLAIN), block) == 0


@pytest.mark.parametrize("model", [PLAIN, WINDOWS, LATENT])
def test_stages_hold_together_what_one_holds(model: ModelSpec) -> None:
    one, two = serving(model), serving(model, "2xa100-80:pp2")
    assert replica_kv_bytes(two) == pytest.approx(replica_kv_bytes(one))
    both = serving(model, "4xa100-80:tp2pp2")
    copied = 6 * HIDDEN * (20 + 40) * 2 if model.latent else 0
    held = 2 * sum(stage_weight_bytes(both, stage) for stage in (0, 1))
    last_norm = 2 * HIDDEN
    assert held == pytest.approx(stage_weight_bytes(one, 0) + copied, abs=last_norm)


def test_a_sequence_holds_its_windows_and_states() -> None:
    held = holding_of(serving(WINDOWS), 16)
    assert (held.full, held.windowed, held.window_blocks, held.window_tokens, held.fixed) == (1, 2, 8, 100, 0)
    assert [held.kv_blocks(blocks) for blocks in (0, 1, 8, 9, 100)] == [0, 3, 24, 25, 116]
    states = serving(STATES)
    assert replica_kv_bytes(states) == 2 * 2 * 2 * 16 * 2  # of the two layers that attend
    assert state_blocks(states, 16) == -(-4 * 5000 // (256 * 16))
    assert holding_of(states, 16).kv_blocks(3) == 3 + 5
    assert holding_of(serving(LATENT), 16) is None


def test_every_gpu_keeps_latent_vectors_and_what_leads_to_them() -> None:
    one, two = serving(LATENT), serving(LATENT, "2xa100-80:tp2")
    assert replica_kv_bytes(one) == 6 * 40 * 2
    assert replica_kv_bytes(two) == 2 * 6 * 40 * 2
    assert stage_weight_bytes(one, 0) == LATENT.stored_bytes(load_precision("fp16"))
    copied = 6 * HIDDEN * (20 + 40) * 2
    assert 2 * stage_weight_bytes(two, 0) == pytest.approx(stage_weight_bytes(one, 0) + copied)


def test_the_widest_network_sets_the_activations() -> None:
    assert activation_bytes(serving(SPARSE), 10) == 2 * 10 * (4 * HIDDEN + 3 * 96)
    narrow = replace(SPARSE, dense_ffn=40)
    assert activation_bytes(serving(narrow), 10) == 2 * 10 * (4 * HIDDEN + 3 * 2 * 32)
    spread = serving(narrow, "2xa100-80:ep2")
    busiest = 2 * 32 * spread.pool.expert_load
    assert activation_bytes(spread, 10) == pytest.approx(2 * 10 * (4 * HIDDEN + 3 * busiest))
