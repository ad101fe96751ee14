"""The time of a row's token: what its GPUs take, and what its host takes at given rates.

The GPUs' part is the simulator's own, once; the host's is `sim.tiered.host_part`, as in every run, at the rates that
are tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from afterwatt.fidelity.offload.table import OffloadRow
from afterwatt.hwprofiles.hostwork import FEW_CHANNELS_BYTES_PER_S, HostRates, host_rates
from afterwatt.hwprofiles.residence import replica_kv_bytes
from afterwatt.hwprofiles.roofline import PS_PER_S, TimeModel, evenly_seen
from afterwatt.modelspecs.spec import ModelSpec
from afterwatt.policies.config import parse_policies
from afterwatt.sim.placement import StageWeights, placement_of
from afterwatt.sim.tiered import host_part

ONE: Final = 1


class Shares(NamedTuple):
    """What a host reaches, as it is fitted; see `hwprofiles.hostwork.HostWork`."""

    few_channels_frac: float
    many_channels_frac: float
    second_socket_frac: float
    hand_over_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A row, and what its time is made of.

    Attributes:
        row: the row.
        gpu_s: that its GPUs take, stage after stage.
        stages: what each stage leaves to the host.
        model: what is run.
        entry_bytes: of the keys and values that the CPU reads.
        rates: of the host, by the shipped shares.
    """

    row: OffloadRow
    gpu_s: float
    stages: Sequence[StageWeights]
    model: ModelSpec
    entry_bytes: float
    rates: HostRates

    @property
    def many_channels(self) -> bool:
        """Whether a socket's memory counts as one of many channels."""
        return self.row.nominal_bytes_per_s / self.row.sockets > FEW_CHANNELS_BYTES_PER_S

    def token_s(self, shares: Shares) -> float:
        """Return the seconds of a token at these shares."""
        each = self.row.nominal_bytes_per_s / self.row.sockets
        share = shares.many_channels_frac if self.many_channels else shares.few_channels_frac
        rate = each * share * (1.0 + shares.second_socket_frac * (self.row.sockets - 1))
        rates = replace(self.rates, cpu_bytes_per_s=rate, hand_over_s=shares.hand_over_s)
        parts = [host_part(stage, rates, self.model, ONE) for stage in self.stages]
        return self.gpu_s + sum(part.cpu_s for part in parts) + self.entry_bytes / rate


def timed(row: OffloadRow) -> Timed:
    """Return a row with its GPUs' part.

    Raises:
        HardwareError, ModelError: what it names is not in the catalogue.
    """
    serving = row.serving()
    placement = placement_of(serving, parse_policies(row.policy))
    assert placement is not None
    context, window = round(row.context_tokens), serving.model.window
    seen = None if window is None else evenly_seen(ONE, context, window)
    gpu_ps, entry_bytes = 0, 0.0
    for number, stage in enumerate(placement.stages):
        times = TimeModel(serving, number, stage.kinds)
        gpu_ps += times.step(ONE, context, (), ONE, 1, seen)[0] + (times.hop_ps(ONE) if number else 0)
        entry_bytes += replica_kv_bytes(serving) / serving.model.layers * stage.cpu_mixers * context
    return Timed(
        row=row,
        gpu_s=gpu_ps / PS_PER_S,
        stages=placement.stages,
        model=serving.model,
        entry_bytes=entry_bytes,
        rates=host_rates(serving),
    )
