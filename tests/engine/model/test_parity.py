"""Logits equal transformers', however the work is cut up, batched, and laid out in memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.engine.runtime.compute import PlacedMove
from afterwatt.modelspecs.padding import SMALLEST_TOKENS
from afterwatt.policies.plans import Move
from tests.engine.model.tiny import (
    BLOCK_TOKENS,
    KINDS,
    KV_BLOCKS,
    Sequence,
    batch_of,
    close,
    expected,
    load,
    logits_of,
    text,
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_prompt_then_token_by_token(kind: str, computes):
    compute, model = computes(kind)
    tokens = text(120, 3)
    wanted = expected(model, tuple(tokens))
    assert wanted.std() > 0.5  # else anything would be close
    seq = Sequence(tokens[:90], list(range(40)))
    close(logits_of(compute, [(seq, 90)])[0], wanted[89])
    for place in range(90, 120):
        seq.tokens = tokens[: place + 1]
        close(logits_of(compute, [(seq, 1)])[0], wanted[place])


@st.composite
def schedules(draw: st.DrawFn):
    """Up to four texts, blocks scattered over the pool, and who advances by how much in each iteration."""
    lengths = draw(st.lists(st.integers(2, 40), min_size=1, max_size=4))
    blocks = draw(st.permutations(range(KV_BLOCKS)))
    sequences, left = [], list(lengths)
    for number, length in enumerate(lengths):
        count = -(-length // BLOCK_TOKENS)
        own, blocks = blocks[:count], blocks[count:]
        run = draw(st.booleans())
        sequences.append((text(length, number), sorted(own) if run else own))
    iterations = []
    while any(left):
        turns = {}
        for number, remaining in enumerate(left):
            if remaining and (draw(st.booleans()) or not any(left[:number])):
                turns[number] = 1 if draw(st.booleans()) else draw(st.integers(1, remaining))
        for number, query in turns.items():
            left[number] -= query
        if turns:
            iterations.append(turns)
    return sequences, iterations


@pytest.mark.parametrize("kind", ["llama", "llama-mqa", "qwen2", "llama-llama3"])
@pytest.mark.parametrize("alone_bytes", [0, 1 << 20], ids=["alone", "together"])
@settings(max_examples=25, deadline=None)
@given(schedule=schedules())
def test_pieces_batches_and_scattered_blocks_change_nothing(kind, alone_bytes, schedule, computes):
    """Prompt pieces and decoding sequences of mixed lengths in one forward, in any blocks."""
    import afterwatt.engine.model.attention as attention

    before, attention.ALONE_BYTES = attention.ALONE_BYTES, alone_bytes
    try:
        compute, model = computes(kind)
        texts, iterations = schedule
        sequences = [Sequence([], blocks) for _, blocks in texts]
        for turns in iterations:
            pieces = []
            for number, query in turns.items():
                seq = sequences[number]
                seq.tokens = texts[number][0][: seq.past + query]  # the end of what is known: it emits
                pieces.append((seq, query))
            found = logits_of(compute, pieces)
            for place, number in enumerate(turns):
                close(found[place], expected(model, tuple(texts[number][0]))[sequences[number].past - 1])
    finally:
        attention.ALONE_BYTES = before


@pytest.mark.parametrize("changes", [{}, {"graphs": True}], ids=["plain", "padded"])
def test_swapped_out_and_in_to_other_blocks(changes, computes):
    compute, model = computes("llama", host_blocks=24, **changes)
    tokens = text(70, 1)
    wanted = expected(model, tuple(tokens))
    seq = Sequence(tokens[:69], list(range(18)))
    logits_of(compute, [(seq, 69)])
    host = [20, 3, *range(4, 20)]
    compute.move([PlacedMove(Move("kv", 0, 18, "hbm", "dram"), seq.blocks, host)])
    other = Sequence(text(72, 2), list(range(18)))
    logits_of(compute, [(other, 72)])  # somebody else has them meanwhile
    seq.blocks = list(range(60, 42, -1))
    compute.move([PlacedMove(Move("kv", 0, 18, "dram", "hbm"), host, seq.blocks)])
    seq.tokens = tokens
    close(logits_of(compute, [(seq, 1)])[0], wanted[69])


def test_computed_again_after_its_blocks_were_lost(computes):
    compute, model = computes("mistral")
    tokens = text(50, 1)
    seq = Sequence(tokens[:40], list(range(10)))
    logits_of(compute, [(seq, 40)])
    logits_of(compute, [(Sequence(text(40, 9), list(range(10))), 40)])
    again = Sequence(tokens, list(range(30, 43)))
    close(logits_of(compute, [(again, 50)])[0], expected(model, tuple(tokens))[49])


@pytest.mark.parametrize("kind", ["llama", "qwen2-tied", "llama-mqa"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_padded_batches_equal_plain_ones(kind: str, count: int, computes):
    """What graphs replay: batch and contexts padded, padding's writes out of everybody's way."""
    padded, model = computes(kind, graphs=True, max_seqs=6)
    sequences = []
    free = list(range(KV_BLOCKS))[::-1]
    for number in range(count):
        length = 3 + 7 * number % 29
        blocks = [free.pop() for _ in range(-(-(length + 4) // BLOCK_TOKENS))]
        sequences.append((Sequence([], blocks), text(length + 4, number)))
    for seq, tokens in sequences:
        seq.tokens = tokens[:-4]
        logits_of(padded, [(seq, len(seq.tokens))])
    for _ in range(4):
        for seq, tokens in sequences:
            seq.tokens = tokens[: seq.past + 1]
        found = logits_of(padded, [(seq, 1) for seq, _ in sequences])
        for place, (seq, tokens) in enumerate(sequences):
            close(found[place], expected(model, tuple(tokens))[seq.past - 1])


def test_warming_up_takes_every_shape_that_a_batch_can_have_and_changes_nothing(computes):
    warm, model = computes("llama", graphs=True, max_seqs=6)
    tokens = text(200, 1)
    seq = Sequence(tokens, list(range(KV_BLOCKS))[::-1])
    logits_of(warm, [(seq, 200)])
    warm.warm_up(256)
    shapes = set(warm._padded._replays)
    seq.tokens = [*tokens, 3]
    close(logits_of(warm, [(seq, 1)])[0], expected(model, (*tokens, 3))[200])
    for count in range(1, 7):
        for past in (0, 100, 200):
            rows = [(Sequence([0] * (past + 1), list(range(KV_BLOCKS)), past=past), 1)] * count
            shape = warm._padded.shape_of(batch_of(rows))
            assert shape is None or shape in shapes


def test_a_padded_shape_reads_at_most_half_as_much_again_as_it_needs(computes):
    compute, _ = computes("llama", graphs=True)
    for past in (1, 127, 128, 129, 200, 255):
        seq = Sequence([0] * (past + 1), list(range(KV_BLOCKS)), past=past)
        _, width = compute._padded.shape_of(batch_of([(seq, 1)]))
        assert past < width * BLOCK_TOKENS <= max(SMALLEST_TOKENS, 1.5 * (past + BLOCK_TOKENS))


def test_a_batch_of_very_different_lengths_is_not_padded_to_its_longest(tiny, monkeypatch):
    for module in ("afterwatt.engine.model.graphs", "afterwatt.modelspecs.padding"):
        monkeypatch.setattr(f"{module}.SMALLEST_TOKENS", 8)
    folder, model = tiny("llama")
    compute = load(folder, block_tokens=BLOCK_TOKENS, kv_blocks=KV_BLOCKS, graphs=True, max_seqs=6)
    free = list(range(KV_BLOCKS))
    texts = [text(length, number) for number, length in enumerate((9, 9, 9, 9, 150))]
    sequences = [Sequence(ids[:-1], [free.pop() for _ in range(-(-len(ids) // BLOCK_TOKENS))]) for ids in texts]
    for seq in sequences:
        logits_of(compute, [(seq, len(seq.tokens))])
    for seq, ids in zip(sequences, texts, strict=True):
        seq.tokens = ids
    rows = [(seq, 1) for seq in sequences]
    assert compute._padded.shape_of(batch_of(rows[:4])) is not None
    assert compute._padded.shape_of(batch_of(rows)) is None
    found = logits_of(compute, rows)
    for place, ids in enumerate(texts):
        close(found[place], expected(model, tuple(ids))[-1])


def test_long_prompts_are_cut_where_their_mask_would_be_large(computes, monkeypatch):
    monkeypatch.setattr("afterwatt.engine.model.attention.MASKED_PAIRS", 100)
    compute, model = computes("llama")
    tokens = text(80, 4)
    seq = Sequence(tokens[:13], list(range(20)))
    logits_of(compute, [(seq, 13)])
    seq.tokens = tokens
    close(logits_of(compute, [(seq, 67)])[0], expected(model, tuple(tokens))[79])


def test_sequences_of_very_different_lengths_are_gathered_apart(computes, monkeypatch):
    monkeypatch.setattr("afterwatt.engine.model.attention._SMALLEST_BUCKET", 8)
    monkeypatch.setattr("afterwatt.engine.model.attention._GATHERED_BYTES", 64 * 2 * 2 * 8 * 4)
    compute, model = computes("llama")
    lengths = [3, 60, 5, 31, 30, 9]
    sequences, free = [], list(range(KV_BLOCKS))
    for number, length in enumerate(lengths):
        own, free = free[: -(-length // BLOCK_TOKENS)], free[-(-length // BLOCK_TOKENS) :]
        sequences.append((Sequence(text(length, number)[:-1], own[::-1]), text(length, number)))
    for seq, _ in sequences:
        logits_of(compute, [(seq, len(seq.tokens))])
    for seq, tokens in sequences:
        seq.tokens = tokens
    found = logits_of(compute, [(seq, 1) for seq, _ in sequences])
    for place, (_, tokens) in enumerate(sequences):
        close(found[place], expected(model, tuple(tokens))[-1])
