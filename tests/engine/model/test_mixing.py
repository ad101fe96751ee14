"""Both ways of attending to a cache in fp16 while computing in fp32, and the choice between them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.engine.model.attention import length_mask
from afterwatt.engine.model.mixing import NarrowMix, cast_mix, chosen_mix, faster_mix

HEADS = (8, 2, 16)


def multiplied(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """What cuBLAS does: narrow factors, wide sums."""
    assert left.dtype == right.dtype == torch.float16
    return left.float() @ right.float()


def of_size(sequences: int, tokens: int, size: float, seed: int) -> tuple[torch.Tensor, ...]:
    """A query in fp32, and keys and values in fp16 as they lie in a cache: heads between tokens."""
    generator = torch.Generator().manual_seed(seed)
    query = size * torch.randn(sequences, 2, 4, 16, generator=generator)
    lying = torch.randn(2, sequences, tokens, 2, 16, generator=generator).half()
    key, value = lying.transpose(2, 3)
    lengths = torch.randint(1, tokens + 1, (sequences,), generator=generator)
    return query, key, value, length_mask(lengths, tokens, torch.float32)


@given(st.integers(1, 3), st.sampled_from([1, 5, 97]), st.sampled_from([1e-2, 1.0, 1e7]), st.integers(0, 99))
def test_narrow_attention_is_that_of_the_query_as_fp16_holds_it(sequences: int, tokens: int, size: float, seed: int):
    """Also of queries beyond what fp16 holds; weights of the mean are rounded to fp16, 2^-11 of each and 2^-25."""
    query, key, value, mask = of_size(sequences, tokens, size, seed)
    found = NarrowMix(multiplied)(query, key, value, mask)
    scaled = query * 0.25
    scale = (scaled.abs().amax(-1, keepdim=True) / 65504.0).clamp(min=1.0)
    held = (scaled / scale).half().double() * scale.double()
    weights = (held @ key.double().transpose(2, 3) + mask.double()).softmax(-1)
    exact = weights @ value.double()
    bound = weights @ value.double().abs()
    if size < 1e3:  # beyond, sums in fp32 and fp64 may disagree on which entry takes all
        assert ((found - exact).abs() <= 2.0**-10 * bound + 2.0**-24 * tokens * value.double().abs().max()).all()
        assert ((found - cast_mix(query, key, value, mask)).abs() <= 0.01 * (1.0 + size) * bound.max()).all()
    assert torch.isfinite(found).all()
    assert found.abs().max() <= 1.001 * value.abs().max()


def test_what_a_mask_hides_does_not_count():
    query, key, value, _ = of_size(2, 9, 1.0, 0)
    mask = length_mask(torch.tensor([4, 9]), 9, torch.float32)
    found = NarrowMix(multiplied)(query, key, value, mask)
    key[0, :, 4:], value[0, :, 4:] = 7.0, -7.0
    assert torch.equal(NarrowMix(multiplied)(query, key, value, mask), found)
    short = NarrowMix(multiplied)(query[:1], key[:1, :, :4], value[:1, :, :4])
    torch.testing.assert_close(found[:1], short, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("narrow_s", "chosen"), [(1.0, "narrow"), (3.0, "cast"), (None, "cast")])
def test_the_faster_way_is_taken_and_a_refused_one_never(narrow_s: float | None, chosen: str):
    ticks = [0.0]

    def way(seconds: float | None):
        def attend(query, key, value, mask):
            if seconds is None:
                raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
            ticks[0] += seconds
            return query

        return attend

    ways = {"cast": way(2.0), "narrow": way(narrow_s)}
    taken = faster_mix(tuple(ways.values()), HEADS, torch.float16, torch.float32, torch.device("cpu"), lambda: ticks[0])
    assert taken is ways[chosen]


def test_a_processor_has_no_choice():
    assert chosen_mix(HEADS, torch.float16, torch.float32, torch.device("cpu")) is cast_mix
