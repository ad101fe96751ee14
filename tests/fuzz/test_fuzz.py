"""Whatever is in a file or a word: a result or one sentence, within 5 s and 1 GB. See also benchmarks/fuzz.py."""

from pathlib import Path

import pytest

from tests.fuzz.targets import fuzz, kept_here, make_sound, targets, try_one

INPUTS = 120


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries, about what is damaged
def test_damaged_input_is_read_or_refused_in_one_sentence(tmp_path: Path):
    with kept_here(tmp_path):
        for target in targets(make_sound(tmp_path)):
            place = tmp_path / f"in {target.name}"
            place.mkdir()
            assert [try_one(target, place, target.as_is(seed)) for seed in target.seeds] == ["ok"] * len(target.seeds)
            count = fuzz(target, place, 0, INPUTS)
            assert count.faults == {}
            assert count.refused
