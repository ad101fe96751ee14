"""Caches of units: what holds for all of them, each one's closed form, and each against a model that keeps lists."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterwatt.policies.caching.cache import Grouped, LowOnMiss, Momentum, ScoredCache, SlidingWindow, Touched
from afterwatt.policies.caching.making import CACHES, WORDS, make_cache
from afterwatt.policies.errors import PolicyError

UNITS = 12
touches = st.lists(st.sets(st.integers(0, UNITS - 1), max_size=8), min_size=1, max_size=25)
capacities = st.integers(0, UNITS)


def ids(units) -> np.ndarray:
    return np.array(sorted(units), dtype=np.int64)


def played(cache, sets) -> list[Touched]:
    return [cache.touch(0, ids(active)) for active in sets]


# -- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CACHES)
@given(sets=touches, capacity=capacities)
def test_what_holds_for_every_cache(name: str, sets, capacity: int):
    cache = make_cache(name, 2, UNITS, capacity)
    before = set(cache.inside(0).tolist())
    other = cache.inside(1)
    for active in sets:
        touched = cache.touch(0, np.array(list(active), dtype=np.int64))
        hits, misses, loads, evicted = (set(found.tolist()) for found in touched[:4])
        assert hits == active & before
        assert hits | misses == active
        assert not hits & misses
        assert evicted <= before
        assert not loads & before
        after = set(cache.inside(0).tolist())
        assert after == (before - evicted) | loads
        assert len(after) <= capacity
        assert all((np.diff(found) > 0).all() for found in touched)
        before = after
    assert np.array_equal(cache.inside(1), other), "layers do not know of each other"


@pytest.mark.parametrize("name", CACHES)
@given(sets=touches, capacity=capacities)
def test_the_same_units_give_the_same_answers(name: str, sets, capacity: int):
    one, other = (played(make_cache(name, 1, UNITS, capacity), sets) for _ in range(2))
    for mine, others in zip(one, other, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, others, strict=True))


@pytest.mark.parametrize("name", sorted(set(CACHES) - {"static", "momentum"}))
@given(sets=touches)
def test_a_cache_that_holds_everything_loads_each_unit_once(name: str, sets):
    """But for those that let go of what they have room for."""
    found = played(make_cache(name, 1, UNITS, UNITS), sets)
    loads = Counter(unit for touched in found for unit in touched.loads.tolist())
    assert set(loads) == set().union(*sets)
    if name in ("lru", "lfu"):
        assert max(loads.values(), default=1) == 1


# -- each against lists ------------------------------------------------------------------------------------------------


def least_recent(sets, capacity: int) -> list[set[int]]:
    last: dict[int, int] = {}
    inside: set[int] = set()
    out = []
    for turn, active in enumerate(sets):
        last |= dict.fromkeys(active, turn)
        inside = set(sorted(inside | active, key=lambda unit: (-last[unit], unit))[:capacity])
        out.append(inside)
    return out


def least_frequent(sets, capacity: int) -> list[set[int]]:
    last: dict[int, int] = {}
    count: Counter[int] = Counter()
    inside: set[int] = set()
    out = []
    for turn, active in enumerate(sets):
        last |= dict.fromkeys(active, turn)
        count.update(active)
        inside = set(sorted(inside | active, key=lambda unit: (-count[unit], -last[unit], unit))[:capacity])
        out.append(inside)
    return out


def adjacent(sets, capacity: int) -> list[set[int]]:
    inside: set[int] = set()
    out = []
    for active in sets:
        inside = set(sorted(active, key=lambda unit: (unit not in inside, unit))[:capacity])
        out.append(inside)
    return out


def window(sets, capacity: int, tokens: int = 5) -> list[set[int]]:
    out = []
    inside: set[int] = set()
    for turn in range(len(sets)):
        recent = sets[max(0, turn - tokens + 1) : turn + 1]
        last = {unit: place for place, active in enumerate(recent) for unit in active}
        able = (inside & set(last)) | sets[turn]
        inside = set(sorted(able, key=lambda unit: (-last[unit], unit))[:capacity])
        out.append(inside)
    return out


def momentum(sets, capacity: int, memory: float = 0.5, margin: float = 1e-3) -> list[set[int]]:
    score = dict.fromkeys(range(UNITS), 0.0)
    inside: set[int] = set()
    out = []
    for active in sets:
        score = {unit: memory * old + (1 - memory) * (unit in active) for unit, old in score.items()}
        able = inside | {unit for unit in active if score[unit] > 1 - memory + margin}
        inside = set(sorted(able, key=lambda unit: (-score[unit], unit))[:capacity])
        out.append(inside)
    return out


MODELS: dict[str, Callable[..., list[set[int]]]] = {
    "lru": least_recent, "lfu": least_frequent, "adjacent": adjacent, "window": window, "momentum": momentum,
    "static": lambda sets, capacity: [set(range(capacity))] * len(sets),
}  # fmt: skip


@pytest.mark.parametrize("name", CACHES)
@settings(max_examples=200)
@given(sets=touches, capacity=capacities)
def test_contents_are_those_of_a_model_that_keeps_lists(name: str, sets, capacity: int):
    cache = make_cache(name, 1, UNITS, capacity)
    for active, expected in zip(sets, MODELS[name](sets, capacity), strict=True):
        cache.touch(0, ids(active))
        assert set(cache.inside(0).tolist()) == expected


@given(sets=touches, tokens=st.integers(1, 4))
def test_words_reach_their_cache(sets, tokens: int):
    cache = make_cache("window", 1, UNITS, UNITS, {"tokens": str(tokens)})
    found = make_cache("momentum", 1, UNITS, UNITS, {"memory": "0.25", "margin": "0.5"})
    for turn, expected in enumerate(momentum(sets, UNITS, 0.25, 0.5)):
        cache.touch(0, ids(sets[turn]))
        found.touch(0, ids(sets[turn]))
        assert set(cache.inside(0).tolist()) == set().union(*sets[max(0, turn - tokens + 1) : turn + 1])
        assert set(found.inside(0).tolist()) == expected


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 5, 11])
def test_a_cyclic_scan_never_hits_a_cache_that_is_too_small_for_it(capacity: int):
    scan = [{turn % UNITS} for turn in range(5 * UNITS)]
    assert not any(len(touched.hits) for touched in played(make_cache("lru", 1, UNITS, capacity), scan))
    whole = played(make_cache("lru", 1, UNITS, UNITS), scan)
    assert [len(touched.hits) for touched in whole] == [0] * UNITS + [1] * (4 * UNITS)


@given(st.integers(1, 6), st.integers(0, 6))
def test_adjacent_tokens_hit_what_they_have_in_common(active: int, common: int):
    common = min(common, active)
    sets = [set(range(turn * (active - common), turn * (active - common) + active)) for turn in range(6)]
    cache = make_cache("adjacent", 1, 100, active)
    found = played(cache, sets)
    assert [len(touched.hits) for touched in found] == [0] + [common] * 5
    assert [len(touched.loads) for touched in found[1:]] == [len(touched.evicted) for touched in found[1:]]


def test_by_frequency_the_hits_are_the_mass_of_the_most_popular():
    """Units are asked for one at a time, as often as Zipf says, in an order that spreads them evenly."""
    times = [round(120 / rank) for rank in range(1, UNITS + 1)]
    asked = sorted((place / count, unit) for unit, count in enumerate(times) for place in range(count))
    sets = [{unit} for _, unit in asked]
    for capacity in (2, 4, 8):
        mass = sum(times[:capacity])
        static = played(make_cache("static", 1, UNITS, capacity), sets)
        assert sum(len(touched.hits) for touched in static) == mass
        assert not any(len(touched.loads) for touched in static)


def test_momentum_lets_in_what_comes_again_and_not_what_comes_once():
    cache = make_cache("momentum", 1, UNITS, UNITS)
    assert not len(cache.touch(0, ids({3})).loads)
    assert cache.touch(0, ids({3})).loads.tolist() == [3]  # 0.5 x 0.5 + 0.5 is above 0.5
    assert isinstance(cache, Momentum)
    cache.adapt(link_bound=True)
    assert cache.memory == pytest.approx(0.55)
    cache.adapt(link_bound=False, share=0.5)
    assert cache.memory == pytest.approx(0.275)
    for _ in range(200):
        cache.adapt(link_bound=True)
    assert cache.memory == 0.99


# -- groups and copies of lower precision ------------------------------------------------------------------------------


@given(sets=touches, capacity=st.integers(0, 4))
def test_groups_come_and_go_as_a_whole(sets, capacity: int):
    group_of = np.arange(UNITS) % 4
    grouped, groups = Grouped(make_cache("lru", 1, 4, capacity), group_of), make_cache("lru", 1, 4, capacity)
    inside: set[int] = set()
    for active in sets:
        touched = grouped.touch(0, ids(active))
        of_groups = groups.touch(0, ids({unit % 4 for unit in active}))
        assert set(touched.hits.tolist()) == active & inside
        assert set(touched.hits.tolist()) | set(touched.misses.tolist()) == active
        for mine, theirs in ((touched.loads, of_groups.loads), (touched.evicted, of_groups.evicted)):
            assert mine.tolist() == sorted(unit for unit in range(UNITS) if unit % 4 in theirs)
        inside = (inside - set(touched.evicted.tolist())) | set(touched.loads.tolist())
        assert set(grouped.inside(0).tolist()) == inside


def test_each_unit_alone_in_its_group_changes_nothing():
    sets = [{0, 3, 5}, {1, 3}, {9, 3, 2}, {0}]
    alone = Grouped(make_cache("lfu", 1, UNITS, 4), np.arange(UNITS))
    for mine, others in zip(played(alone, sets), played(make_cache("lfu", 1, UNITS, 4), sets), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, others, strict=True))


@given(
    sets=st.lists(st.permutations(range(6)).map(lambda order: order[:4]), min_size=1, max_size=12),
    certain=st.integers(0, 5),
)
def test_only_what_matters_is_brought_in_at_full_precision(sets, certain: int):
    cache = LowOnMiss(make_cache("lru", 1, 6, 3), certain)
    for active in sets:
        inside = set(cache.inside(0).tolist())
        touched = cache.touch(0, np.array(active))
        low = set(touched.low.tolist())
        assert low == set(active[certain:]) - inside
        assert set(touched.hits.tolist()) == set(active) & inside
        assert set(touched.hits.tolist()) | set(touched.misses.tolist()) == set(active)
        assert not low & set(touched.loads.tolist())


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "own", "says"),
    [
        ("mru", {}, "unknown cache 'mru'; known: adjacent, lru, lfu, window, momentum, static"),
        ("lru", {"tokens": "5"}, "cache 'lru', which takes no words"),
        ("window", {"memory": "5"}, "which takes tokens"),
        ("window", {"tokens": "x"}, "tokens = 'x' of cache 'window' must be a whole number"),
        ("window", {"tokens": "0"}, "a window of 0 tokens"),
        ("momentum", {"memory": "1"}, "memory = 1"),
        ("momentum", {"margin": "-1"}, "margin = -1"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, own, says: str):
    with pytest.raises(PolicyError, match=says):
        make_cache(name, 1, UNITS, 4, own)


def test_sizes_and_units_that_are_not_there_are_refused():
    for sizes in ((0, 4, 1), (1, 0, 1), (1, 4, -1)):
        with pytest.raises(PolicyError, match="makes no sense"):
            make_cache("lru", *sizes)
    cache = make_cache("lru", 1, 4, 2)
    for unit in (-1, 4):
        with pytest.raises(PolicyError, match="number them from 0"):
            cache.touch(0, np.array([unit]))
    with pytest.raises(PolicyError, match="groups"):
        Grouped(make_cache("lru", 1, 3, 2), np.array([0, 0, 2, 2]))
    with pytest.raises(PolicyError, match="0 or more"):
        LowOnMiss(cache, -1)


def test_every_word_belongs_to_a_cache():
    assert set(WORDS) <= set(CACHES)
    assert all(issubclass(kind, ScoredCache) for kind in CACHES.values())
    assert CACHES["window"] is SlidingWindow
