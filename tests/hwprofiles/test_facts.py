"""A fact keeps its provenance, and a profile that breaks a rule is refused in one sentence."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from afterwatt.hwprofiles import Fact, HardwareError, load_device
from afterwatt.hwprofiles.facts import BANDWIDTH, FRACTION, Rule, merge_facts
from afterwatt.hwprofiles.tables import DATA_DIR, Table, read_profile

SOURCE = 'source = "https://example.org/card", checked = 2026-11-20, kind = "datasheet"'


def fact(value: float = 2.0, **given: object) -> Fact:
    return Fact(value, "a source", "2026-11-20", **{"kind": "assumed", "low": 1.0, "high": 4.0, **given})  # type: ignore[arg-type]


def test_a_fact_computes_as_a_float_and_survives_pickle_and_copy() -> None:
    one = fact(note="look out")
    assert one * 3 == 6.0
    assert type(one * 3) is float
    assert json.dumps({"x": one}) == '{"x": 2.0}'
    assert f"{one}" == "2.0"
    assert "2.0" in repr(one)
    assert "assumed" in repr(one)
    for twin in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one)):
        assert twin == one
        assert isinstance(twin, Fact)
        assert [getattr(twin, name) for name in Fact.__slots__] == [getattr(one, name) for name in Fact.__slots__]


def test_a_fact_is_frozen() -> None:
    with pytest.raises(AttributeError, match="frozen"):
        fact().source = "another"
    with pytest.raises(AttributeError, match="frozen"):
        del fact().source


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "guessed"}, "guessed"),
        ({"low": None, "high": None}, "needs an interval"),
        ({"high": None}, "both low and high"),
        ({"value": 5.0}, "outside of its interval 1..4"),
    ],
)
def test_a_fact_refuses_what_is_no_fact(given: dict[str, object], says: str) -> None:
    with pytest.raises(HardwareError, match=says):
        fact(**given)  # type: ignore[arg-type]


def test_merging_prefers_the_first_and_spans_all() -> None:
    merged = merge_facts([fact(2.0), Fact(9.0, "another source", "2026-11-21", "measured")])
    assert (float(merged), merged.interval, merged.checked) == (2.0, (1.0, 9.0), "2026-11-21")
    assert "a source" in merged.source
    assert "another source" in merged.source


def test_widening_reaches_at_least_the_given_share() -> None:
    assert fact(2.0).widened(0.1).interval == (1.0, 4.0)
    assert Fact(100.0, "a source", "2026-11-20", "measured").widened(0.1).interval == (90.0, 110.0)


def test_a_rule_names_the_unit_that_was_probably_meant() -> None:
    assert BANDWIDTH.fault(288.4e9) is None
    assert BANDWIDTH.fault(288) == "looks like GB/s; expected 1e8..1e13"
    assert FRACTION.fault(6.25) == "looks like percent; expected 0..1"
    assert Rule(1.0, 2.0).fault(5.0) == "is outside of what is plausible; expected 1..2"


def read(tmp_path: Path, text: str, build: Callable[[Table], object]) -> object:
    path = tmp_path / "my.toml"
    path.write_text(text, encoding="utf-8")
    return read_profile(path, build)


def one_fact(table: Table) -> Fact:
    return table.fact("x_bytes_per_s", BANDWIDTH)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x_bytes_per_s = 288.4e9", "x_bytes_per_s = 288400000000.0 has no source; write x_bytes_per_s = {"),
        (f"x_bytes_per_s = {{ value = 288, {SOURCE} }}", "x_bytes_per_s = 288 looks like GB/s; expected 1e8..1e13"),
        (f"x_bytes_per_s = {{ value = nan, {SOURCE} }}", "x_bytes_per_s = nan must be a finite number"),
        (f"x_bytes_per_s = {{ value = inf, {SOURCE} }}", "must be a finite number"),
        (f"x_bytes_per_s = {{ value = true, {SOURCE} }}", "must be a finite number"),
        (f'x_bytes_per_s = {{ value = "3e9", {SOURCE} }}', "must be a finite number"),
        (f"x_bytes_per_s = {{ {SOURCE} }}", "x_bytes_per_s.value is missing"),
        (f"x_bytes_per_s = {{ value = 3e9, valeu = 1, {SOURCE} }}", "unknown key 'x_bytes_per_s.valeu'; did you mean"),
        ('x_bytes_per_s = { value = 3e9, checked = 2026-11-20, kind = "datasheet" }', "has no source"),
        ('x_bytes_per_s = { value = 3e9, source = "a page", kind = "datasheet" }', "has no date"),
        ('x_bytes_per_s = { value = 3e9, source = "a page", checked = 2026-11-20 }', "has no kind"),
        ('x_bytes_per_s = { value = 3e9, source = "nowhere", checked = 2026-11-20, kind = "datasheet" }', "'nowhere'"),
        (
            'x_bytes_per_s = { value = 3e9, source = "a page", checked = "yesterday", kind = "datasheet" }',
            "must be a TOML date",
        ),
        (
            'x_bytes_per_s = { value = 3e9, source = "a page", checked = 1970-01-01, kind = "datasheet" }',
            "must lie in 2000-01-01",
        ),
        (
            'x_bytes_per_s = { value = 3e9, source = "a page", checked = 2026-11-20, kind = "assumed" }',
            "needs an interval",
        ),
        (
            (
                'x_bytes_per_s = { value = 3e9, source = "a page", checked = 2026-11-20, kind = "fitted", '
                "low = 4e9, high = 5e9 }"
            ),
            "outside of its interval",
        ),
        (
            'x_bytes_per_s = { value = 3e9, source = "a page", checked = 2026-11-20, kind = "rumour" }',
            "kind = 'rumour' is not known",
        ),
        (f"x_bytes_per_s = {{ value = 3e9, {SOURCE} }}\nnvlink = 3", "unknown key 'nvlink'"),
        ("", "x_bytes_per_s is missing"),
        ("x_bytes_per_s = ", "not valid TOML"),
        (
            f'x_bytes_per_s = {{ value = 3e9, {SOURCE} }}\n[sources]\nspare = {{ text = "some long text" }}',
            "source 'spare' is never referred to",
        ),
        (f"x_bytes_per_s = {{ value = 3e9, {SOURCE} }}\n[sources]\nspare = 3", "source 'spare' must be a table"),
    ],
)
def test_a_profile_with_a_slip_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(HardwareError) as caught:
        read(tmp_path, text, one_fact)
    message = str(caught.value)
    assert says in message
    assert "my.toml: " in message
    assert "\n" not in message.partition("not valid TOML")[0]


def test_a_source_id_stands_for_its_full_text_date_and_kind(tmp_path: Path) -> None:
    text = (
        'x_bytes_per_s = { value = 3e9, source = "maker" }\n'
        '[sources]\nmaker = { text = "https://example.org/maker", checked = 2026-11-19, kind = "measured" }'
    )
    got = read(tmp_path, text, one_fact)
    assert isinstance(got, Fact)
    assert (got.source, got.checked, got.kind) == ("https://example.org/maker", "2026-11-19", "measured")


def test_a_number_may_give_its_own_kind_over_its_sources(tmp_path: Path) -> None:
    text = (
        'x_bytes_per_s = { value = 3e9, source = "maker", kind = "assumed", low = 2e9, high = 4e9 }\n'
        '[sources]\nmaker = { text = "https://example.org/maker", checked = 2026-11-19, kind = "measured" }'
    )
    got = read(tmp_path, text, one_fact)
    assert isinstance(got, Fact)
    assert (got.kind, got.interval) == ("assumed", (2e9, 4e9))


def test_shipped_files_are_named_from_the_package_on(tmp_path: Path) -> None:
    text = (DATA_DIR / "gpus" / "m40-24.toml").read_text(encoding="utf-8")
    path = DATA_DIR / "gpus" / "m40-24.toml"

    def build(table: Table) -> object:
        raise table.error("something")

    with pytest.raises(HardwareError, match=r"^hwprofiles/data/gpus/m40-24\.toml: something$"):
        read_profile(path, build)
    assert "288.4e9" in text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("value = 288.4e9", "value = 288", "mem_bandwidth_bytes_per_s = 288 looks like GB/s; expected 1e8..1e13"),
        ("value = 25_769_803_776", "value = 24", "memory_bytes = 24 looks like GB; expected"),
        ("value = 6.83e12", "value = 6.83", "flops_per_s.fp32 = 6.83 looks like TFLOPS"),
        ("tdp_w = { value = 250.0", "tdp_w = { value = 250000.0", "tdp_w = 250000 looks like mW"),
        ("value = 15550", "value = 15.55", "embodied_gco2e[0] = 15.55 looks like kg"),
        ("tdp_w", "tpd_w", "tdp_w is missing; is 'tpd_w' a slip for it?"),
        ("bare_idle_w", "bare_idel_w", "unknown key 'bare_idel_w'; did you mean 'bare_idle_w'?"),
        ("fp32 =", "fp23 =", "unknown key 'flops_per_s.fp23'; did you mean 'fp32'?"),
        ('"maxwell"', '"maxwel"', "architecture = 'maxwel' is not known; did you mean 'maxwell'?"),
        ("idle_w = { value = 57.0, ", "idle_w = { value = 300.0, ", "outside of its interval"),
        ("year = 2016", "year = 16", "year = 16 must be a whole number in 2000..2100"),
        ("year = 2016", 'year = "2016"', "must be a whole number"),
        ('ecc = "inline"', 'ecc = "sideband"', "'sideband' costs nothing"),
        ('ecc = "inline"', 'ecc = "none"\necc_default_on = true', "cannot have it on"),
        ('ecc = "inline"', 'ecc = "none"', "so ecc_capacity_frac and ecc_bandwidth_frac have no meaning"),
        ("ecc_capacity_frac", "#", "ecc = 'inline' needs ecc_capacity_frac and ecc_bandwidth_frac"),
        ('slot = "pcie"', 'slot = "agp"', "slot = 'agp' is not known"),
        ("pcie_lanes = 16", "pcie_lanes = 32", "pcie_lanes = 32 must be a whole number in 1..16"),
        ('["ddr3-2u", "ddr4-4u"]', "[]", "default_hosts = [] must be a list of strings"),
        ('method = "act"', 'method = "atc"', "embodied_gco2e[0].method = 'atc' is not known; did you mean 'act'?"),
    ],
)
def test_a_users_gpu_with_a_typo_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = (DATA_DIR / "gpus" / "m40-24.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(HardwareError) as caught:
        load_device(str(path))
    assert f"{path}: " in str(caught.value)
    assert says in str(caught.value)


def test_a_users_gpu_is_one_file(tmp_path: Path) -> None:
    text = (DATA_DIR / "gpus" / "m40-24.toml").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("Tesla M40 24GB", "My card"), encoding="utf-8")
    assert load_device(str(path)).key == "mine"
    assert load_device(str(path)).tdp_w == load_device("m40").tdp_w


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="no such file"):
        load_device(str(tmp_path / "none.toml"))


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(HardwareError, match=r"unknown device 'm4O'; did you mean 'm40'\? known: 3090, 4090, a10,"):
        load_device("m4O")
    with pytest.raises(HardwareError, match="did you mean 'a100-40' or"):
        load_device("a100")
