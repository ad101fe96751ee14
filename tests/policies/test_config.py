"""Policy sets: what is written is what is meant, there and back, and slips are answered with a way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.policies.batching import BATCHING
from afterwatt.policies.config import PREEMPTION, PolicySet, parse_policies
from afterwatt.policies.errors import PolicyError
from afterwatt.policies.routing import ROUTING
from afterwatt.policies.sizes import SchedulerConfig

sizes = st.integers(1, 10_000_000)
sets = st.builds(
    PolicySet,
    batching=st.sampled_from(sorted(BATCHING)),
    routing=st.sampled_from(sorted(ROUTING)),
    preemption=st.sampled_from(PREEMPTION),
    weights=st.sampled_from(["resident", "stream", "stream-int8", "stream-int4"]),
    share_prefixes=st.booleans(),
    token_budget=sizes | st.just(2048),
    max_seqs=sizes | st.just(256),
    block_tokens=sizes | st.just(16),
    kv_blocks=st.none() | sizes,
    watermark_frac=st.integers(0, 9999).map(lambda number: number / 100 / 100.0),
    max_queue=st.none() | sizes,
)


@given(sets)
def test_a_name_is_read_back_as_what_it_names(policies):
    assert parse_policies(policies.name) == policies


@given(sets, st.randoms(use_true_random=False))
def test_the_order_of_the_words_does_not_matter(policies, draw):
    words = policies.name.split("+")
    draw.shuffle(words)
    assert parse_policies("+".join(words)) == policies


def test_names_are_as_short_as_they_can_be():
    assert PolicySet().name == "chunked"
    assert parse_policies(" prefill-first + swap ").name == "prefill-first+swap"
    assert PolicySet(share_prefixes=False, token_budget=512).name == "chunked+no-prefix+budget=512"
    assert parse_policies("layers=20").name == "chunked+layers=20"
    assert parse_policies("last=3+experts=cpu").name == "chunked+experts=cpu+last=3"
    assert parse_policies("stream+from=ssd+depth=2").name == "chunked+stream+depth=2+from=ssd"
    assert parse_policies("watermark=0.50+kv=2588").name == "chunked+kv=2588+watermark=0.5"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("chuncked", "unknown policy 'chuncked'; did you mean 'chunked'?"),
        ("chunked+budgett=5", "unknown policy option 'budgett'; did you mean 'budget'?"),
        ("chunked+patience=5", "unknown policy option 'patience'; known: budget, seqs, block, kv, queue, watermark"),
        ("chunked+budget=lots", "'lots' is not a whole number; write for example budget=512"),
        ("chunked+budget=-5", "'-5' is not a whole number; write for example budget=512"),
        ("chunked+budget=", "'' is not a whole number; write for example budget=512"),
        ("layers", "policy option layers = '' is no whole number from 1 to 10,000; write layers=8, say"),
        ("layers=0", "policy option layers = '0' is no whole number"),
        ("layers=2+experts=cpu", "says weights twice (layers and experts); keep one"),
        ("experts=gpu", "experts=gpu is no place for experts; write experts=cpu"),
        ("split=60/50", "split=60/50 is no split; write percent"),
        ("split=60", "split=60 is no split; write percent"),
        ("stream+from=hbm", "from=hbm is no place to stream from; write dram or ssd"),
        ("stream+depth=-1", "depth = '-1' is no whole number from 0 to 64"),
        ("depth=3", "unknown policy option 'depth'"),
        ("chunked+seqs=0", "policy option seqs = 0 is out of range; expected a whole number from 1 to 10,000,000"),
        ("chunked+block=99999999", "policy option block = 99999999 is out of range"),
        ("chunked+kv=2.5", "'2.5' is not a whole number; write for example kv=512"),
        ("chunked+watermark=-1", "'-1' is not a percentage; write for example watermark=0.5"),
        ("chunked+watermark=1.", "'1.' is not a percentage"),
        ("chunked+watermark=100", "watermark_frac = 1 is out of range; expected 0 up to, not including, 1"),
        ("chunked+watermark=1+watermark=2", "says watermark_frac twice (0.01 and 0.02); keep one"),
        ("chunked+prefill-first", "says batching twice (chunked and prefill-first); keep one"),
        ("swap+recompute", "says preemption twice (swap and recompute); keep one"),
        ("", "unknown policy ''"),
        ("chunked++swap", "unknown policy ''"),
    ],
)
def test_a_slip_is_named_with_its_rule_and_a_way_out(text, sentence):
    with pytest.raises(PolicyError) as caught:
        parse_policies(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batching": "greedy"}, "unknown batching policy 'greedy'; known: prefill-first, chunked, decode-first"),
        ({"routing": "round_robin"}, "unknown routing policy 'round_robin'; did you mean 'round-robin'?"),
        ({"preemption": "swop"}, "unknown preemption 'swop'; did you mean 'swap'?"),
        ({"watermark_frac": 1.0}, "watermark_frac = 1 is out of range"),
        ({"watermark_frac": -0.1}, "watermark_frac = -0.1 is out of range"),
        ({"max_queue": 0}, "policy option queue = 0 is out of range"),
    ],
)
def test_a_set_checks_itself(options, sentence):
    with pytest.raises(PolicyError) as caught:
        PolicySet(**options)
    assert sentence in str(caught.value)


@given(st.text(max_size=20))
def test_any_text_is_a_set_or_one_clear_sentence(text):
    try:
        policies = parse_policies(text)
    except PolicyError:
        return  # the sentences themselves are tested above
    assert parse_policies(policies.name) == policies


@given(sets, st.integers(1, 10**6), st.none() | st.integers(1, 512))
def test_the_sizes_of_a_worker_are_those_of_its_policies_in_the_memory_there_is(policies, blocks, unit):
    found = policies.sizes(
        kv_blocks=blocks,
        block_tokens=8,
        max_context_tokens=1000,
        host_blocks=77,
        prefix_unit_tokens=unit,
        groups=3,
    )
    assert found == SchedulerConfig(
        kv_blocks=blocks,
        block_tokens=8,
        max_seqs=policies.max_seqs,
        token_budget=policies.token_budget,
        max_context_tokens=1000,
        watermark_blocks=found.watermark_blocks,
        max_queue=policies.max_queue,
        swap_blocks={"swap": 77, "recompute": 0}[policies.preemption],
        prefix_unit_tokens=unit if policies.share_prefixes else None,
        keep_preempted=policies.share_prefixes,
        groups=3,
    )
    assert 0 <= policies.watermark_frac * blocks - found.watermark_blocks < 1


def test_a_utilisation_is_a_share_and_says_no_number_of_blocks():
    assert parse_policies("chunked+utilisation=0.9").utilisation_frac == 0.9
    assert parse_policies("utilisation=1").utilisation_frac == 1.0
    assert parse_policies(parse_policies("utilisation=0.85").name) == parse_policies("utilisation=0.85")
    for wrong in ("90", "0", "0.01", "1.5", "-0.9", "0,9", "nan", "0.9" * 99):
        with pytest.raises(PolicyError, match="utilisation"):
            parse_policies(f"utilisation={wrong}")
    with pytest.raises(PolicyError, match=r"kv=10 and utilisation=0\.9"):
        parse_policies("kv=10+utilisation=0.9")
