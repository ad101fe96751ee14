"""Sizes of padded batches: never too small, at most half as large again, and the same for as long as it is said."""

from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.modelspecs.padding import SMALLEST_TOKENS, ladder, padded_shape, padded_size, padded_until


@given(st.integers(1, 100_000), st.sampled_from([1, 8, 128]))
def test_a_size_holds_the_value_and_is_at_most_half_as_large_again(value: int, smallest: int):
    size = padded_size(value, smallest)
    assert value <= size
    assert 2 * size <= max(3 * value, 2 * smallest)
    assert padded_size(size, smallest) == size


@given(st.integers(1, 40), st.integers(1, 3000))
def test_a_ladder_is_every_size_that_values_are_padded_to(smallest: int, last: int):
    sizes = ladder(smallest, last)
    assert sizes == sorted({min(padded_size(value, smallest), last) for value in range(1, last + 1)})


@settings(max_examples=200)
@given(st.lists(st.integers(1, 600), min_size=1, max_size=9))
def test_a_padded_batch_reads_at_most_nine_quarters_of_what_it_holds(lengths: list[int]):
    """For as long as `padded_until` says, as counting finds."""
    count, longest = len(lengths), max(lengths)
    held = sum(lengths)
    shape = padded_shape(count, longest, held)
    if shape is not None:
        assert shape[0] >= count
        assert shape[1] >= longest
        assert 4 * shape[0] * shape[1] <= 9 * max(held, count * SMALLEST_TOKENS)
    lasting = padded_until(count, longest, held)
    width = padded_size(longest, SMALLEST_TOKENS)
    steps = 0
    while padded_shape(count, longest + steps, held + count * steps) == shape and longest + steps <= width:
        steps += 1
    assert lasting == steps


@given(st.integers(1, 64), st.integers(1, 5000))
def test_sequences_of_equal_lengths_are_always_padded(count: int, tokens: int):
    assert padded_shape(count, tokens, count * tokens) is not None
