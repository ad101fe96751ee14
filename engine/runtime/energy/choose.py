"""The best meter that there is for a device.

In this order: NVML's energy counter (Volta and newer), NVML's power polled and integrated, RAPL's counters, a model of
idle and busy watts, nothing. A figure says which (`Reading.method`); one that is not known is None with the reason, and
so is one whose meter failed half way: what was counted until then is no energy of the whole stretch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from afterwatt.engine.runtime.energy.nvml import Nvml
from afterwatt.engine.runtime.energy.rapl import POWERCAP, rapl_meter
from afterwatt.engine.runtime.energy.reading import EnergyMeter, MeterError, ModelledMeter, UnknownMeter
from afterwatt.engine.runtime.energy.tally import (
    COUNTER_INTERVAL_S,
    POLL_INTERVAL_S,
    Counter,
    SampledMeter,
    polled_power,
)


class Watts(Protocol):
    """What a model needs of a hardware profile; `hwprofiles.devices.Device` has it."""

    @property
    def key(self) -> str:
        """Return the device's name."""

    @property
    def idle_w(self) -> float:
        """Return watts at rest."""

    @property
    def tdp_w(self) -> float:
        """Return the limit."""

    @property
    def streaming_w(self) -> float | None:
        """Return measured watts while memory streams; None where nobody measured."""


@dataclass(frozen=True, slots=True)
class MeterChoice:
    """A meter, and why none of the better ones."""

    meter: EnergyMeter
    refused: tuple[str, ...]


def choose_meter(
    device: str,
    profile: Watts | None = None,
    *,
    uuid: str | None = None,
    library: Any = None,  # noqa: ANN401 - the module pynvml
    powercap: Path = POWERCAP,
    interval_s: float = POLL_INTERVAL_S,
) -> MeterChoice:
    """Return the best meter of a device.

    Args:
        device: `cpu`, `cuda` or `cuda:1`.
        profile: whose watts a model may take.
        uuid: of the GPU; `Nvml` says why.
        library: stands in for `pynvml`.
        powercap: where RAPL's zones are.
        interval_s: between samples of polled power.
    """
    refused: list[str] = []
    kind, _, number = device.partition(":")
    if kind == "cuda":
        try:
            gpu = Nvml(int(number or 0), uuid, library)
        except MeterError as fault:
            refused.append(f"nvml: {fault}")
        else:
            if found := _nvml_meter(gpu, interval_s, refused):
                return MeterChoice(found, tuple(refused))
    else:
        try:
            return MeterChoice(rapl_meter(powercap), ())
        except MeterError as fault:
            refused.append(f"rapl: {fault}")
    covers = "the board" if kind == "cuda" else "the processor and its memory"
    if profile is not None:
        busy_w = profile.tdp_w if profile.streaming_w is None else profile.streaming_w
        model = ModelledMeter(float(profile.idle_w), float(busy_w), f"profile {profile.key}", covers)
        return MeterChoice(model, tuple(refused))
    refused.append("model: no profile to take watts from")
    return MeterChoice(UnknownMeter(covers, "; ".join(refused)), tuple(refused))


def _nvml_meter(gpu: Nvml, interval_s: float, refused: list[str]) -> EnergyMeter | None:
    try:
        gpu.counter_j()
        counter = Counter(gpu.counter_j, None, "NVML's energy counter")
        return SampledMeter(counter, "nvml-counter", gpu.covers, COUNTER_INTERVAL_S)
    except MeterError as fault:
        refused.append(f"nvml-counter: {fault}; Volta and newer have it")
    try:
        gpu.power_w()
        return polled_power(gpu.power_w, "nvml-power", gpu.covers, interval_s, gpu.power_note)
    except MeterError as fault:
        refused.append(f"nvml-power: {fault}")
    return None
