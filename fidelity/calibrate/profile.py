"""What was measured as a hardware profile; what was not is the catalogue's, or assumed and wide."""

import dataclasses
import datetime as dt
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from afterwatt.fidelity.calibrate.measure import Calibration
from afterwatt.fidelity.cards import cards_named
from afterwatt.hwprofiles.devices import ARCHITECTURES, PRECISIONS, SOCKET, Device
from afterwatt.hwprofiles.embodied import EmbodiedFact
from afterwatt.hwprofiles.errors import HardwareError
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.power import anchors_of
from afterwatt.hwprofiles.units import BYTES_PER_GIB

KEY: Final = "device"
"""Stem of the file, by which stacks know the device."""
_YEAR_S: Final = 31_557_600.0
_SAME_MEMORY_FRAC: Final = 0.15
_BY_CAPABILITY: Final = (
    ((12, 0), "blackwell"), ((10, 0), "blackwell"), ((9, 0), "hopper"), ((8, 9), "ada"), ((8, 0), "ampere"),
    ((7, 5), "turing"), ((7, 0), "volta"), ((6, 0), "pascal"), ((5, 0), "maxwell"), ((3, 0), "kepler"),
)  # fmt: skip
"""Compute capability from which on a GPU is of an architecture (CUDA programming guide)."""


def known_card(calibration: Calibration) -> Device | None:
    """Return the catalogue's facts of a GPU, recognised by its name and the size of its memory; None for others."""
    machine = calibration.machine
    if machine.device == "cpu":
        return None
    try:
        cards = cards_named(machine.name)
    except HardwareError:
        return None

    def off(card: Device) -> float:
        return abs(float(card.memory_bytes) / machine.memory_bytes - 1.0)

    nearest = min(cards, key=off)
    return nearest if off(nearest) <= _SAME_MEMORY_FRAC else None


def device_profile(calibration: Calibration, command: str) -> Device:
    """Return the device as a profile.

    Args:
        calibration: what was measured.
        command: how it was called, for the source.
    """
    facts = _Facts(calibration, command)
    card = known_card(calibration)
    if card is not None:
        return _measured_card(card, facts)
    return _processor(facts) if calibration.machine.device == "cpu" else _unknown_card(facts)


class _Facts:
    """Facts with the calibration as their source."""

    def __init__(self, calibration: Calibration, command: str) -> None:
        machine = calibration.machine
        self.calibration = calibration
        began = dt.datetime.fromtimestamp(calibration.began_unix_s, dt.UTC)
        self.date = began.date().isoformat()
        self.year = began.year
        versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
        self.source = (
            f"measured by `{command}` at {began:%Y-%m-%d %H:%M} UTC on {machine.name}: {versions}, "
            f"{machine.threads} thread{'s' * (machine.threads != 1)}, medians of {calibration.effort.rounds} rounds, "
            f"{calibration.clock} time, 10 to 90 % as interval; "
            f"read bandwidth moved by {calibration.drift_frac:.0%} meanwhile"
        )

    def measured(self, value: float, low: float | None = None, high: float | None = None, note: str = "") -> Fact:
        return Fact(value, self.source, self.date, "measured", low, high, note)

    def assumed(self, value: float, low: float, high: float, note: str) -> Fact:
        text = (
            "assumption of `afterwatt calibrate`: not measurable from software, and the device is not in the catalogue"
        )
        return Fact(value, text, self.date, "assumed", low, high, note)

    def bandwidth(self) -> Fact:
        way, rate = self.calibration.bandwidth
        return self.measured(rate.median, rate.low, rate.high, f"the best of read, copy and gemv: {way}")

    def flops(self) -> dict[str, Fact]:
        """Return the peaks of the precisions that are worth computing in; see `skipped_precisions`."""
        peaks, out = self.calibration.peaks(), skipped_precisions(self.calibration)
        return {
            name: self.measured(rate.median, rate.low, rate.high, f"fastest product: {shape}")
            for name in PRECISIONS
            if name in peaks and name not in out
            for shape, rate in (peaks[name],)
        }

    def loaded(self, idle_w: float) -> dict[str, Any]:
        """Return watts under load, where they were measured and are above idling."""
        watts = self.calibration.watts
        found = {"streaming_w": watts.streaming_w, "computing_w": watts.computing_w}
        return {
            name: self.measured(loaded_w, note=f"mean over {self.calibration.effort.power_s:g} s; {watts.method}")
            if loaded_w is not None and loaded_w > idle_w
            else None
            for name, loaded_w in found.items()
        }


def skipped_precisions(calibration: Calibration) -> dict[str, str]:
    """Return precision -> why a profile should not say that the device computes in it, though it was measured."""
    peaks, machine = calibration.peaks(), calibration.machine
    out: dict[str, str] = {}
    fp32 = peaks["fp32"][1].median
    for name, (_, rate) in peaks.items():
        share = rate.median / fp32
        said = f"{rate.median / 1e9:.3g} GFLOP/s, {share:.0%} of fp32's"
        if name == "fp16" and machine.device == "cpu":
            out[name] = f"{said}; the engine stores fp16 and computes fp32 on a processor"
        elif name in ("fp16", "bf16") and share < 1.0 and name != machine.dtype:
            out[name] = f"{said}: stored so, it is computed in fp32"
    return out


def _measured_card(card: Device, facts: _Facts) -> Device:
    """Return a card of the catalogue with what was measured in place of what its datasheet says."""
    slow = skipped_precisions(facts.calibration)
    said = {name: fact for name, fact in card.flops_per_s.items() if name not in slow}
    flops = {name: fact for name, fact in facts.flops().items() if name in said}
    inline = card.ecc == "inline"
    free = facts.measured(0.0, note="the bandwidth was measured with ECC as it is set")
    idle = facts.calibration.watts.idle_w
    idle_w = card.idle_w if idle is None else facts.measured(idle, note=f"context and arrays loaded; {_method(facts)}")
    return dataclasses.replace(
        card,
        key=KEY,
        mem_bandwidth_bytes_per_s=facts.bandwidth(),
        flops_per_s={**said, **flops},
        idle_w=idle_w,
        ecc_bandwidth_frac=free if inline else card.ecc_bandwidth_frac,
        note=f"{card.key} of the catalogue, measured. {card.note}".strip(),
        **facts.loaded(float(idle_w)),
    )


def _method(facts: _Facts) -> str:
    return facts.calibration.watts.method


def _unknown_card(facts: _Facts) -> Device:
    machine, watts = facts.calibration.machine, facts.calibration.watts
    found = tuple(int(part) for part in machine.capability.split("."))
    architecture = next((name for least, name in _BY_CAPABILITY if found >= least), ARCHITECTURES[0])
    most = max(watts.streaming_w or 0.0, watts.computing_w or 0.0)
    tdp_w = max(most * 1.05, 250.0)
    tdp = facts.assumed(
        tdp_w, max(most, 40.0), max(2.0 * tdp_w, 700.0), "board power limit: at least what was measured"
    )
    idle = (
        facts.assumed(30.0, 5.0, 100.0, "no meter")
        if watts.idle_w is None
        else facts.measured(watts.idle_w, note=watts.method)
    )
    return Device(
        **_common(facts, tdp, idle),
        architecture=architecture,
        slot="pcie",
        memory_bytes=facts.measured(float(machine.memory_bytes), note="as CUDA reports it"),
        memory_type="unknown",
        pcie_gen=3,
        pcie_lanes=16,
        die_mm2=facts.assumed(450.0, 100.0, 900.0, "between a small and the largest die"),
        process_nm=facts.assumed(12.0, 4.0, 28.0, "between the newest and Maxwell's"),
        embodied_gco2e=(
            EmbodiedFact("act", facts.assumed(15000.0, 5000.0, 40000.0, "silicon of cards in the catalogue"), "card"),
            EmbodiedFact("card-lca", facts.assumed(80000.0, 30000.0, 170_000.0, "cards in the catalogue"), "card"),
            EmbodiedFact("generic", facts.assumed(150_000.0, 60000.0, 240_000.0, "one number for every GPU"), "card"),
        ),
        default_hosts=("workstation", "ddr4-4u", "hgx-a100"),
        note="Not in the catalogue: what was not measured is assumed.",
    )


def _processor(facts: _Facts) -> Device:
    """Return a processor with its memory; what no probe tells is assumed, and wide."""
    machine, watts = facts.calibration.machine, facts.calibration.watts
    gib = machine.memory_bytes / BYTES_PER_GIB
    cores = _cores()
    most = max(watts.streaming_w or 0.0, watts.computing_w or 0.0)
    tdp_w = max(8.0 * cores, 15.0, most * 1.05)
    note = f"{cores} cores at 8 W, of which 2 to 20 are found, and memory" + (", or what was measured" * bool(most))
    tdp = facts.assumed(tdp_w, max(min(2.0 * cores, tdp_w), most, 5.0), max(20.0 * cores, 30.0, tdp_w), note)
    idle_w = watts.idle_w
    idle = (
        facts.assumed(0.3 * tdp_w, 0.05 * tdp_w, 0.7 * tdp_w, "three tenths of the limit; no meter here")
        if idle_w is None
        else facts.measured(idle_w, note=f"all that idles on it; {watts.method}")
    )
    act = facts.assumed(
        15600.0 + 65.0 * gib, 5000.0 + 48.0 * gib, 25000.0 + 230.0 * gib,
        "an EPYC 7742's dies (SC23) and memory by ACT's 65 g/GB, 48 to 230",
    )  # fmt: skip
    whole = facts.assumed(
        23500.0 + 1390.0 * gib, 10000.0 + 500.0 * gib, 50000.0 + 1800.0 * gib,
        "a processor and memory by the Dell R740's inventory: 23.5 kg, and 533 kg for 384 GB",
    )  # fmt: skip
    return Device(
        **_common(facts, tdp, idle),
        architecture="cpu",
        slot=SOCKET,
        memory_bytes=facts.measured(float(machine.memory_bytes), note="installed, or what the container may use"),
        memory_type="DDR",
        pcie_gen=None,
        pcie_lanes=0,
        die_mm2=facts.assumed(500.0, 100.0, 1500.0, "compute dies of a server processor"),
        process_nm=facts.assumed(7.0, 3.0, 22.0, "processors of the last ten years"),
        embodied_gco2e=(
            EmbodiedFact("act", act, "card"),
            EmbodiedFact("card-lca", whole, "card"),
            EmbodiedFact("generic", whole, "card"),
        ),
        default_hosts=("socket",),
        note=f"A processor with its memory, {machine.threads} of {cores} cores at work; the host has neither.",
    )


def _common(facts: _Facts, tdp: Fact, idle: Fact) -> dict[str, Any]:
    machine = facts.calibration.machine
    return {
        "key": KEY,
        "name": machine.name,
        "vendor": machine.vendor,
        "year": facts.year,  # of first sale; not known: as if bought now
        "gpus_per_board": 1,
        "compute_capability": machine.capability,
        "mem_bandwidth_bytes_per_s": facts.bandwidth(),
        "flops_per_s": facts.flops(),
        "nvlink_bytes_per_s": None,
        "tdp_w": tdp,
        "idle_w": idle,
        "bare_idle_w": None,
        "ecc": "none",  # whatever ECC takes, the measured bandwidth and memory are without it
        "ecc_default_on": False,
        "ecc_capacity_frac": None,
        "ecc_bandwidth_frac": None,
        "price_used_usd": None,
        "price_new_usd": None,
        "lifetime_s": facts.assumed(5 * _YEAR_S, 3 * _YEAR_S, 10 * _YEAR_S, "5 years (3 to 10), as for cards"),
        **facts.loaded(float(idle)),
    }


def _cores() -> int:
    return os.cpu_count() or 1


# -- as TOML -----------------------------------------------------------------------------------------------------------


def device_text(device: Device, head: str) -> str:
    """Return the TOML of a device profile, as `hwprofiles.devices.read_device` reads it.

    Args:
        device: the profile.
        head: a line for the top.
    """
    sources = _Sources()
    lines = [f"# {head}", "# Form and rules: hwprofiles/tables.py; fields: hwprofiles/devices.py.", ""]
    tables: list[str] = []
    for field in dataclasses.fields(device):
        value = getattr(device, field.name)
        if field.name == "key" or value is None or value == "" or (field.name == "pcie_lanes" and not value):
            continue
        if isinstance(value, Mapping):
            tables += ["", f"[{field.name}]", *(f"{name} = {_fact(fact, sources)}" for name, fact in value.items())]
        else:
            lines.append(f"{field.name} = {_value(value, sources)}")
    return "\n".join([*lines, *tables, "", *sources.lines(), ""])


class _Sources:
    """Sources under short ids, in the order of their use."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str, str], str] = {}

    def cite(self, fact: Fact) -> str:
        return self._ids.setdefault((fact.source, fact.checked, fact.kind), f"s{len(self._ids) + 1}")

    def lines(self) -> Iterator[str]:
        yield "[sources]"
        for (text, checked, kind), name in self._ids.items():
            yield f'{name} = {{ text = {_quoted(text)}, checked = {checked}, kind = "{kind}" }}'


def _value(value: object, sources: _Sources) -> str:
    if isinstance(value, Fact):
        return _fact(value, sources)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    assert isinstance(value, tuple)  # hosts by name, or figures of embodied carbon
    items = [
        f"    {_fact(item.gco2e, sources, f'method = {_quoted(item.method)}, ')},"
        if isinstance(item, EmbodiedFact)
        else f"    {_quoted(item)},"
        for item in value
    ]
    return "\n".join(["[", *items, "]"])


def _fact(fact: Fact, sources: _Sources, before: str = "") -> str:
    parts = [f"value = {float(fact)!r}", f'source = "{sources.cite(fact)}"']
    if fact.low is not None and fact.high is not None:
        parts += [f"low = {float(fact.low)!r}", f"high = {float(fact.high)!r}"]
    if fact.note:
        parts.append(f"note = {_quoted(fact.note)}")
    return f"{{ {before}{', '.join(parts)} }}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(mark if mark.isprintable() else " " for mark in escaped) + '"'


def datasheet(calibration: Calibration) -> Mapping[str, float]:
    """Return what the catalogue says of this device: `bandwidth` and precisions; empty if it is not there."""
    card = known_card(calibration)
    if card is None:
        return {}
    rate = card.peak_bytes_per_s(card.ecc_default_on)
    return {"bandwidth": rate, **{name: float(flops) for name, flops in card.flops_per_s.items()}}


def check_profile(device: Device) -> None:
    """See that the physics takes a profile; raises HardwareError where it does not."""
    anchors_of(device)


def profile_path(folder: Path) -> Path:
    """Return where a calibration's profile stands."""
    return folder / f"{KEY}.toml"
