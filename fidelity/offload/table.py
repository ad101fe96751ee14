"""The table of published rows whose weights lie in part in host memory, and what each means as a deployment.

Every fact of a row stands in a column, with what was assumed where its source leaves one open. A row that cannot be run
says why, in `excluded`.
"""

import csv
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from afterwatt.hwprofiles.catalogue import load_device
from afterwatt.hwprofiles.deployment import Deployment, default_host, make_deployment
from afterwatt.hwprofiles.facts import Fact
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.stacks import load_stack
from afterwatt.modelspecs.catalogue import load_model
from afterwatt.modelspecs.precision import load_precision

PUBLISHED: Final = Path(__file__).parents[1] / "data" / "offload.csv"
BYTES_PER_TRANSFER: Final = 8.0
"""Of a memory channel: 64 bits."""
MARK: Final = " | "
"""Between two assumptions of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadRow:
    """One published decoding speed.

    Attributes:
        source, url: whose it is.
        device, gpus: the cards; the layers of the model are spread over them.
        model, precision, bits: of the weights; bits per weight where the mixture is its own.
        active_experts: that a token is sent to, where they were reduced.
        policy: where the weights lie.
        sockets, channels, transfers_per_s: of the host's memory, each socket's channels.
        host: the processor and its memory, in words.
        context_tokens: that decoding reads, in the middle of the answer.
        kv_bytes: per element of the KV cache.
        stack: whose times the GPU's part has.
        value: tokens per second of one sequence.
        assumed: what the source leaves open.
    """

    source: str
    url: str
    device: str
    gpus: int
    model: str
    precision: str
    bits: float | None = None
    active_experts: int | None = None
    policy: str
    sockets: int
    channels: int
    transfers_per_s: float
    host: str
    context_tokens: float
    kv_bytes: float | None = None
    stack: str
    value: float
    assumed: tuple[str, ...]

    @property
    def nominal_bytes_per_s(self) -> float:
        """Return the nominal bandwidth of the host's memory."""
        return self.sockets * self.channels * self.transfers_per_s * BYTES_PER_TRANSFER

    def serving(self) -> Serving:
        """Return what was run, in the smallest of the card's usual servers, with this memory."""
        model = load_model(self.model)
        if self.active_experts is not None:
            model = replace(model, active_experts=self.active_experts)
        precision = load_precision(self.precision)
        if self.bits is not None:
            precision = replace(precision, bits_per_weight=self.bits)
        stack = load_stack(load_device(self.device), self.stack)
        if self.kv_bytes is not None:
            stack = replace(stack, kv_bytes_per_element=_stated(self.kv_bytes, "the source's own format of the cache"))
        return Serving(self._deployment(), model, precision, stack)

    def _deployment(self) -> Deployment:
        device = load_device(self.device)
        host, rate = default_host(device, self.gpus), self.nominal_bytes_per_s
        own = replace(host, sockets=self.sockets, dram_bandwidth_bytes_per_s=_stated(rate, self.host))
        return make_deployment(device, self.gpus, pp=self.gpus, host=own)


_COLUMNS: Final = frozenset(field.name for field in fields(OffloadRow))
_READER: Final = TypeAdapter(OffloadRow)


def _stated(value: float, source: str) -> Fact:
    return Fact(value, source, "2026-11-30", "datasheet", value, value)


def read_offload(path: Path = PUBLISHED) -> tuple[list[OffloadRow], list[tuple[str, str]]]:
    """Return the rows that can be run, and (source, reason) of the others."""
    rows: list[OffloadRow] = []
    left: list[tuple[str, str]] = []
    with path.open(encoding="utf-8", newline="") as file:
        for said in csv.DictReader(file):
            if said["excluded"]:
                left.append((said["source"], said["excluded"]))
                continue
            given = {name: text for name, text in said.items() if name in _COLUMNS and text}
            rows.append(_READER.validate_python(given | {"assumed": tuple(filter(None, said["assumed"].split(MARK)))}))
    return rows, left
