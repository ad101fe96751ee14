"""Stack profiles: what holds for which device, what a file must say, and variations of it."""

import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterwatt.hwprofiles import device_names
from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.stacks import (
    BASES,
    FREE,
    PARAMETERS,
    Spread,
    Stack,
    default_stack,
    dequant_parameter,
    holds,
    load_pools,
    load_stack,
    model_class,
    parent_pool,
    pool_names,
    stack_files,
    stack_names,
    stack_path,
)
from afterwatt.modelspecs import load_model
from afterwatt.modelspecs.precision import PRECISIONS

GENERIC = stack_path("generic").read_text(encoding="utf-8")
OPTIONAL = {"attention_score_bytes", "prompt_launch_s", "comm_bulk_efficiency", "comm_bulk_tokens"}


def pool_text(name: str, pool: str = "maxwell") -> str:
    """A pool of the generic stack under another name, with the file's sources."""
    sources = GENERIC[GENERIC.index("[sources]") : GENERIC.index("[kepler]")]
    table = GENERIC.split(f"\n[{pool}]\n")[1].split("\n[")[0]
    used = [line for line in sources.splitlines()[1:] if line and f'"{line.split(" =")[0]}"' in table]
    return "\n".join(["[sources]", *used, f"[{name}]", table])


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("stack", stack_names())
@pytest.mark.parametrize("device", device_names())
def test_a_shipped_stack_knows_what_it_says_about_every_device(stack, device):
    card = load_device(device)
    found = load_stack(card, stack)
    assert found.pool in pool_names(card)
    assert found.name == stack
    assert found.basis in BASES
    for parameter in PARAMETERS:
        value = getattr(found, parameter.name)
        assert isinstance(value, Fact), parameter.name
        assert parameter.rule.fault(value) is None
        assert value.source


def test_parameters_are_the_fields_of_a_stack():
    named = [field.name for field in fields(Stack)]
    facts = [
        name
        for name in named
        if name
        not in ("name", "pool", "quantised_in", "sums_in", "decode_shape", "basis", "seen", "spread", "spread_seen")
    ]
    assert facts == [parameter.name for parameter in PARAMETERS]
    assert all(parameter.rule.low <= parameter.low <= parameter.high <= parameter.rule.high for parameter in PARAMETERS)
    assert all(parameter.low > 0 for parameter in FREE)  # a fit takes their logarithm


def test_the_most_specific_pool_holds(tmp_path):
    device = load_device("p40")
    assert pool_names(device) == ("p40", "pascal-gddr", "pascal")
    text = pool_text("pascal")
    assert load_stack(device, write(tmp_path, text)).pool == "pascal"
    for pool in ("pascal-gddr", "p40"):
        text += "\n" + pool_text(pool).partition(f"[{pool}]")[1] + pool_text(pool).partition(f"[{pool}]")[2]
        path = write(tmp_path, text)
        assert load_stack(device, path).pool == pool
    assert load_stack(load_device("p100-16"), path).pool == "pascal"


def test_a_file_of_ones_own_is_named_by_its_path_and_read_again_when_it_changes(tmp_path):
    device = load_device("m40")
    path = write(tmp_path, pool_text("maxwell"))
    before = load_stack(device, path)
    assert before.name == path
    text = Path(path).read_text().replace("[maxwell]", '[maxwell]\nquantised_in = "int8"')
    assert before.quantised_in == "fp16"
    assert load_stack(device, write(tmp_path, text)).quantised_in == "int8"


def test_what_a_file_may_leave_out(tmp_path):
    found = load_stack(load_device("m40"), write(tmp_path, pool_text("maxwell")))
    missing = OPTIONAL - {name for name in OPTIONAL if f"\n{name} " in pool_text("maxwell")}
    assert missing == OPTIONAL
    assert found.prompt_launch_s == found.launch_s
    assert found.comm_bulk_efficiency == found.comm_efficiency
    assert found.comm_bulk_tokens >= 1e12
    assert found.attention_score_bytes <= 0.01
    assert found.seen == ()
    assert dict(found.spread) == {}


def test_a_spread_and_what_was_seen(tmp_path):
    text = pool_text("maxwell").replace("[maxwell]", '[maxwell]\nseen = ["dense:int4"]')
    text = text.replace('basis = "assumed"', 'basis = "fitted"')
    source = next(line.split(" =")[0] for line in text.splitlines()[1:])
    text += (
        f'\n[maxwell.spread]\ndecode = {{ value = 1.0, low = 0.8, high = 1.3, source = "{source}", kind = "fitted" }}\n'
    )
    found = load_stack(load_device("m40"), write(tmp_path, text))
    assert found.spread == {"decode": Spread(0.8, 1.3)}
    assert found.basis_for("dense:int4") == "measured"
    assert found.basis_for("moe:int4") == "fitted"


# -- inheritance -------------------------------------------------------------------------------------------------------


def told(fact):
    return fact.__reduce__()[1]


@pytest.mark.parametrize("stack", sorted(set(stack_names()) - {"generic"}))
def test_a_shipped_stack_states_nothing_that_its_parent_has(stack):
    """And what it does not state is the parent's, source, date, kind, interval and note included."""
    text = stack_path(stack).read_text(encoding="utf-8")
    file = tomllib.loads(text)
    parent = file["inherits"].removesuffix(".toml")
    parents, pools = load_pools(parent), load_pools(stack)
    assert set(pools) >= set(parents)
    for pool, found in pools.items():
        after = parents[parent_pool(pool, parents)]
        assert (found.name, found.pool) == (stack, pool)
        for parameter in PARAMETERS:
            same = told(getattr(found, parameter.name)) == told(getattr(after, parameter.name))
            if parameter.name in file.get(pool, {}):
                # where the parent speaks of no difference, that of the child has to be spelled out
                assert not same or parameter.name in OPTIONAL, (pool, parameter.name)
            else:
                own_alike = {"prompt_launch_s": "launch_s", "comm_bulk_efficiency": "comm_efficiency"}
                alike = getattr(found, own_alike.get(parameter.name, parameter.name))
                assert same or told(getattr(found, parameter.name)) == told(alike), (pool, parameter.name)


def inheriting(folder: Path, text: str, name: str = "child.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


SAID = 'source = "a trial", checked = 2026-11-20, kind = "measured"'


def test_a_stack_of_ones_own_states_what_differs(tmp_path):
    child = inheriting(tmp_path, f'inherits = "vllm"\n[ampere-hbm]\nlaunch_s = {{ value = 2e-5, {SAID} }}\n')
    found, parent = load_pools(child), load_pools("vllm")
    assert (float(found["ampere-hbm"].launch_s), found["ampere-hbm"].launch_s.source) == (2e-5, "a trial")
    assert found["ampere-hbm"].spread == parent["ampere-hbm"].spread
    assert found["ampere-hbm"].basis == parent["ampere-hbm"].basis
    assert list(found) == ["ampere-hbm", *(pool for pool in parent if pool != "ampere-hbm")]
    for name in ("kepler", "h100-sxm"):
        assert replace(found[name], name="vllm") == parent[name]
    assert stack_files(child) == [Path(child), stack_path("vllm"), stack_path("generic")]


def test_what_stands_for_a_parameter_is_the_childs(tmp_path):
    """generic speaks of no launch of prompts apart, so that a child's launches hold for prompts too."""
    child = inheriting(tmp_path, f'inherits = "generic"\n[kepler]\nlaunch_s = {{ value = 2e-5, {SAID} }}\n')
    assert float(load_pools(child)["kepler"].prompt_launch_s) == 2e-5


def test_the_pool_of_a_device_takes_after_the_most_specific_of_its_parents(tmp_path):
    child = inheriting(tmp_path, f'inherits = "generic"\n[p40]\nstep_overhead_s = {{ value = 0.0, {SAID} }}\n')
    after = replace(load_pools("generic")["pascal-gddr"], name=child, pool="p40")
    found = load_pools(child)["p40"]
    assert float(found.step_overhead_s) == 0.0
    assert replace(found, step_overhead_s=after.step_overhead_s) == after


@pytest.mark.parametrize("stack", stack_names())
def test_a_stack_holds_for_the_cards_that_it_has_pools_for(stack):
    for card in map(load_device, device_names()):
        assert holds(stack, card) == (not load_pools(stack).keys().isdisjoint(pool_names(card)))


def test_a_fault_in_another_pool_of_ones_own_file_is_said(tmp_path):
    child = inheriting(tmp_path, f'inherits = "generic"\n[p40]\nlaunch_s = {{ value = 1e-5, {SAID} }}\n[mine]\n')
    with pytest.raises(HardwareError, match="mem_efficiency is missing"):
        load_stack(load_device("p40"), child)


def test_parents_beside_a_file_are_read_again_when_they_change(tmp_path):
    inheriting(tmp_path, f'inherits = "generic"\n[p40]\nlaunch_s = {{ value = 1e-5, {SAID} }}\n', "parent.toml")
    child = inheriting(tmp_path, f'inherits = "parent.toml"\n[p40]\nstep_overhead_s = {{ value = 1e-3, {SAID} }}\n')
    assert float(load_pools(child)["p40"].launch_s) == 1e-5
    inheriting(tmp_path, f'inherits = "generic"\n[p40]\nlaunch_s = {{ value = 12e-5, {SAID} }}\n', "parent.toml")
    assert float(load_pools(child)["p40"].launch_s) == 12e-5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('inherits = "genric"', "did you mean 'generic'"),
        ('inherits = "none.toml"', "none.toml: no such file"),
        ('inherits = "child.toml"', "inherits from itself"),
        (f"[p40]\nlaunch_s = {{ value = 1e-5, {SAID} }}", "child.toml: p40.mem_efficiency is missing"),
        ('inherits = "generic"\n[mine]', "child.toml: mine.mem_efficiency is missing"),
    ],
)
def test_parents_that_cannot_be_are_refused(tmp_path, text, said):
    with pytest.raises(HardwareError) as fault:
        load_pools(inheriting(tmp_path, text))
    assert said in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("mem_efficiency", "mem_eficiency"), "mem_efficiency"),
        (lambda text: text.replace('basis = "assumed"', 'basis = "guessed"'), "guessed"),
        (lambda text: text.replace("[maxwell]", '[maxwell]\nquantised_in = "int9"'), "int9"),
        (lambda text: text.replace("[maxwell]", "[turing]"), "needs a table [m40-24] or [maxwell-gddr] or [maxwell]"),
        (lambda text: text.replace("[maxwell]", "[maxwell"), "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, change, said):
    with pytest.raises(HardwareError) as fault:
        load_stack(load_device("m40"), write(tmp_path, change(pool_text("maxwell"))))
    assert said in str(fault.value)
    assert "\n" not in str(fault.value)


def test_an_unknown_stack_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(HardwareError, match="did you mean 'generic'"):
        load_stack(load_device("m40"), "genric")
    with pytest.raises(HardwareError, match="no such file"):
        load_stack(load_device("m40"), str(tmp_path / "none.toml"))


@given(st.sampled_from(FREE), st.floats(0.0, 1.0))
def test_a_stack_with_other_values_has_these_and_all_others_as_before(parameter, where):
    stack = load_stack(load_device("a100-80"), "generic")
    value = parameter.low * (parameter.high / parameter.low) ** where
    other = stack.with_values({parameter.name: value})
    assert getattr(other, parameter.name) == value
    low, high = getattr(other, parameter.name).interval
    assert low <= value <= high
    for kept in PARAMETERS:
        if kept.name != parameter.name:
            assert getattr(other, kept.name) is getattr(stack, kept.name)


def test_a_name_that_is_no_parameter_is_refused():
    with pytest.raises(HardwareError, match="did you mean 'launch_s'"):
        load_stack(load_device("m40"), "generic").with_values({"lanch_s": 1.0})


def test_every_default_stack_is_shipped_and_holds_for_its_device():
    for key in device_names():
        device = load_device(key)
        assert load_stack(device, default_stack(device)).pool in pool_names(device)


def test_every_quantised_family_has_its_instructions():
    for precision in PRECISIONS.values():
        if precision.quantised:
            assert dequant_parameter(precision.family) in {parameter.name for parameter in FREE}
        assert model_class(load_model("llama-2-7b"), precision) == f"dense:{precision.family}"
    assert model_class(load_model("mixtral-8x7b"), PRECISIONS["fp16"]) == "moe:fp16"


def test_the_generic_stack_says_what_is_fitted_and_what_is_carried_over():
    for pool, stack in load_pools("generic").items():
        kinds = {parameter.name: getattr(stack, parameter.name).kind for parameter in PARAMETERS}
        assert (kinds["mem_efficiency"] == "fitted") == (stack.basis == "pooled"), pool
        assert all("points" not in getattr(stack, parameter.name).source for parameter in PARAMETERS)
