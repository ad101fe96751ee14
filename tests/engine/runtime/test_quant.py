"""Bundles as bytes: exact sizes, and errors within half a scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from afterwatt.engine.runtime.quant import LARGEST, decode, encode
from afterwatt.modelspecs.bundles import GROUP, PRECISIONS, neuron_bytes
from afterwatt.modelspecs.errors import ModelError

ROWS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.just(3), st.integers(1, 300)),
    elements=st.floats(-1000, 1000, width=32, allow_subnormal=False),
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, precision=st.sampled_from(PRECISIONS))
def test_what_is_decoded_is_as_near_as_the_format_allows(rows, precision):
    bundles = encode(rows, precision)
    assert bundles.shape == (len(rows), neuron_bytes(rows.shape[2], precision))
    back = decode(bundles, rows.shape[2], precision)
    error = np.abs(back.astype(np.float64) - rows)
    if precision == "fp32":
        assert (error == 0).all()
    elif precision in ("fp16", "bf16"):
        relative = 2.0 ** (-11 if precision == "fp16" else -8)
        assert (error <= relative * np.abs(rows) + 2.0**-25).all()
    else:
        group = rows.shape[2] if precision == "int8" else GROUP
        for first in range(0, rows.shape[2], group):
            part = slice(first, first + group)
            largest = np.abs(rows[..., part]).max(-1, keepdims=True).astype(np.float64)
            # A scale is at most one step of fp16 above the exact one; a step is 2^-10 of it, or 2^-24.
            scale = largest / LARGEST[precision] * (1 + 2.0**-10) + 2.0**-24
            assert (error[..., part] <= 0.5 * scale * (1 + 1e-6)).all()


@pytest.mark.parametrize("precision", LARGEST)
def test_multiples_of_a_scale_that_fp16_holds_come_back_exactly(precision):
    largest = LARGEST[precision]
    codes = np.random.default_rng(0).integers(-largest, largest + 1, (5, 3, 2 * GROUP))
    codes[..., 0] = codes[..., GROUP] = largest
    rows = codes.astype(np.float32) * np.float32(0.125)
    assert np.array_equal(decode(encode(rows, precision), 2 * GROUP, precision), rows)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_wide_format_holds_its_own_values_exactly(precision):
    drawn = np.random.default_rng(1).normal(size=(4, 3, 7)).astype(np.float32)
    once = decode(encode(drawn, precision), 7, precision)
    assert np.array_equal(decode(encode(once, precision), 7, precision), once)


def test_a_weight_halfway_between_two_goes_to_the_even_one_in_bf16():
    rows = np.array([[[1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8]] * 3], dtype=np.float32)
    assert decode(encode(rows, "bf16"), 3, "bf16")[0, 0].tolist() == [1.0, 1 + 2**-6, -1.0]


@pytest.mark.parametrize(("precision", "value"), [("fp16", 70_000.0), ("int8", 1e7), ("int4", 1e6)])
def test_what_a_format_does_not_hold_is_refused(precision, value):
    with pytest.raises(OverflowError, match="weight of"):
        encode(np.full((1, 3, 4), value, dtype=np.float32), precision)


def test_the_published_sizes_of_a_neuron_of_4096():
    """24 KiB in fp16; int8 with three fp16 scales; int4 with three times 32 of them."""
    assert neuron_bytes(4096, "fp16") == 24 << 10
    assert neuron_bytes(4096, "int8") == (12 << 10) + 16
    assert neuron_bytes(4096, "int4") == (6 << 10) + 3 * 32 * 2
    with pytest.raises(ModelError, match="int3"):
        neuron_bytes(4096, "int3")
