"""The generic stack written from kernel tables: fitted where there are some, carried over by stated rules where not.

Nothing here has seen end-to-end measurements: this profile is what every stack's fit starts from, also when it must
say something of a device that has been held out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import median
from typing import Final

from afterwatt.fidelity.kernels.comm import LinkFit
from afterwatt.fidelity.kernels.fit import ALL, ATTENTION_PARAMETERS, GEMM_PARAMETERS, KernelFit
from afterwatt.hwprofiles.catalogue import load_link
from afterwatt.hwprofiles.stacks import PARAMETERS

DATE: Final = "2026-11-20"

WIDTHS: Final = {
    "mem_efficiency": 1.12,
    "compute_efficiency": 1.25,
    "kernel_latency_s": 1.7,
    "roofline_sharpness": 1.4,
    "attention_mem_efficiency": 1.2,
    "attention_compute_efficiency": 1.4,
    "attention_latency_s": 1.5,
    "attention_block_s": 1.5,
    "quantised_compute_efficiency": 1.4,
    "fp8_compute_efficiency": 1.4,
    "expert_efficiency": 1.3,
    "router_overhead_s": 2.5,
    "mixed_query_rows": 2.5,
    "comm_efficiency": 1.3,
    "comm_latency_s": 4.0,
}
"""Factors to either side of a fitted value: what tables of one architecture differ by, by judgement."""
CARRIED: Final = 2.0
"""A carried value's interval is as much wider, in powers of its factor."""


@dataclass(frozen=True, slots=True)
class Value:
    """A parameter's value in one pool: number, interval, id of its source, what to know."""

    value: float
    low: float
    high: float
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Whom a pool without tables takes its kernels after.

    Attributes:
        gemm: pools whose matrix products it shares (geometric mean).
        attention: the same for attention.
        widen: powers that the intervals of carried values grow by.
        scale: parameter -> factor on what is carried.
        why: the reason for those, said in the note.
    """

    gemm: tuple[str, ...]
    attention: tuple[str, ...]
    widen: float = CARRIED
    scale: Mapping[str, float] | None = None
    why: str = ""


_BEFORE_FLASH: Final = {"attention_compute_efficiency": 0.5, "attention_mem_efficiency": 0.8}
_OLD: Final = "kernels before Ampere: half of the A100's share of arithmetic, 0.8 of its share of bandwidth"
_OTHER_VENDOR: Final = "another vendor's kernels: half of the share of arithmetic, 0.8 of that of bandwidth"
_BEFORE_TENSOR_CORES: Final = ("kepler", "maxwell", "pascal")
_MEASURED: Final = ("volta", "ampere-hbm", "ampere-gddr", "hopper")
_HALF_AND_FULL_RATE: Final = ("rtx4090", "ampere-gddr")
_BETWEEN: Final = ("ampere-hbm", "rtx4090")
NEIGHBOURS: Final[Mapping[str, Neighbours]] = {
    "kepler": Neighbours(_MEASURED, ("ampere-hbm",), 3.0, _BEFORE_FLASH, _OLD),
    "maxwell": Neighbours(_MEASURED, ("ampere-hbm",), 3.0, _BEFORE_FLASH, _OLD),
    "pascal-gddr": Neighbours(_MEASURED, ("ampere-hbm",), 3.0, _BEFORE_FLASH, _OLD),
    "pascal-hbm": Neighbours(_MEASURED, ("ampere-hbm",), 3.0, _BEFORE_FLASH, _OLD),
    "volta": Neighbours((), ("ampere-hbm",), 2.5, _BEFORE_FLASH, _OLD),
    "turing": Neighbours(_MEASURED, ("ampere-hbm",), 2.5, _BEFORE_FLASH, _OLD),
    "ampere-hbm": Neighbours((), ()),
    "ampere-gddr": Neighbours((), _BETWEEN),
    "rtx3090": Neighbours((), _BETWEEN),
    "ada": Neighbours(_HALF_AND_FULL_RATE, ("rtx4090",)),
    "rtx4090": Neighbours((), ()),
    "hopper": Neighbours((), ()),
    "blackwell-hbm": Neighbours(("hopper",), ("hopper",)),
    "blackwell-gddr": Neighbours(_HALF_AND_FULL_RATE, ("rtx4090",), 2.5),
    "cdna2": Neighbours(("ampere-hbm",), ("ampere-hbm",), 3.0, _BEFORE_FLASH, _OTHER_VENDOR),
    "cdna3": Neighbours(("hopper",), ("hopper",), 3.0, _BEFORE_FLASH, _OTHER_VENDOR),
    "gcn5": Neighbours(("ampere-hbm",), ("ampere-hbm",), 3.0, _BEFORE_FLASH, _OTHER_VENDOR),
    "xehpg": Neighbours(("ampere-hbm",), ("ampere-hbm",), 3.0, _BEFORE_FLASH, _OTHER_VENDOR),
    "xe2": Neighbours(("ampere-hbm",), ("ampere-hbm",), 3.0, _BEFORE_FLASH, _OTHER_VENDOR),
}
"""Pools in the order of the file; a pool without neighbours has tables of its own."""

CEILINGS: Final = {
    "maxwell": (3.61 / 6.83, 0.4, 0.75, "3.61 of 6.83 TFLOPS"),
    "pascal-gddr": (10.07 / 11.76, 0.65, 1.0, "10.07 of 11.76 TFLOPS"),
    "pascal-hbm": (8.4 / 19.05, 0.32, 0.6, "7.9 to 8.8 of 19.05 TFLOPS in fp16, which accumulates in 32 bits"),
}
"""Share of the peak of the largest products that users measured: Tesla M40, P40, P100."""
SMALL_KERNELS: Final = {"ampere-hbm": 2.4e-5, "ampere-gddr": 2.0e-5, "rtx4090": 8.5e-6}
"""Norms, rotary embedding, activation and residual of a layer at few tokens: medians over models in microsoft/vidur
7d47513 (A100 19 to 31 us, A40 15 to 24 us), sum in casys-kaist/LLMServingSim 5daddb2 (RTX 4090, fused: 8.5 us)."""

_SMALL: Final = "norms, rotary embedding, activation and residual of one layer at few tokens"
_ENGINE: Final = "schedule, inputs, sampler and outputs of vLLM in 2024"
_TEXTS: Final = {
    "carried": (
        "assumed",
        "assumption of this project: carried over from measured architectures as the note says, interval widened",
    ),
    "software": (
        "assumed",
        "assumption of this project: what engines of the day take, by judgement; the interval spans engines",
    ),
    "small-kernels": (
        "fitted",
        (
            f"{_SMALL}: microsoft/vidur 7d47513 (A100, A40), casys-kaist/LLMServingSim 5daddb2 (RTX 4090, vLLM); "
            "interval: from all fused to none"
        ),
    ),
    "cpu-vidur": (
        "fitted",
        (
            f"{_ENGINE}, one GPU: 0.8 ms + 42 us a sequence on an A100's host, 1.3 ms + 63 us on an A40's, "
            "microsoft/vidur users/nitinkedia7/oss-release; today's engines overlap most of it"
        ),
    ),
    "unpacking": (
        "assumed",
        (
            "TensorRT-LLM's weight-only products on A100 (ai-dynamo/aiconfigurator 095f58a) take 2 to 4 instructions, "
            "as do others written for tensor cores"
        ),
    ),
    "unpacking-old": (
        "assumed",
        (
            "shifting, masking, converting and scaling one by one takes 10 to 20 instructions, kernels written for the "
            "purpose 2 to 4; which of them old cards have is not known"
        ),
    ),
    "gemm-probes": (
        "measured",
        (
            "largest matrix products of PyTorch 2.6 to 2.8 that users reported: zzc0721/torch-performance-test-data "
            "0785868, database.md and issues 140, 164, 177, 180"
        ),
    ),
    "format": ("assumed", "16-bit cache and activations, the default of common engines; an 8-bit cache halves it"),
}


def resolve(fits: Sequence[KernelFit], links: Sequence[LinkFit]) -> dict[str, dict[str, Value]]:
    """Return all pools of the generic stack: pool -> parameter -> value."""
    fitted = {_place(fit.pool): fit for fit in fits}
    pools = {}
    for pool, neighbours in NEIGHBOURS.items():
        values = dict(_kernels(pool, neighbours, fitted))
        values |= dict(_formats(pool, neighbours, fitted, values["compute_efficiency"]))
        values |= dict(_software(pool)) | dict(_links(pool, links))
        pools[pool] = {parameter.name: values[parameter.name] for parameter in PARAMETERS if parameter.name in values}
    return pools


def _place(pool: str) -> str:
    """Return the generic stack's name for a fitted pool: where all cards share one kind of memory, the architecture."""
    return pool if pool in NEIGHBOURS else pool.rpartition("-")[0]


def _kernels(pool: str, near: Neighbours, fitted: Mapping[str, KernelFit]) -> Iterator[tuple[str, Value]]:
    own = fitted.get(pool)
    for names, others in ((GEMM_PARAMETERS, near.gemm), (ATTENTION_PARAMETERS, near.attention)):
        for name in names:
            if name == "compute_efficiency" and pool in CEILINGS:
                value, low, high, note = CEILINGS[pool]
                yield name, Value(value, low, high, "gemm-probes", note)
            elif own is not None and name in own.values:
                yield name, _fitted(name, own.values[name], f"kernels-{pool}")
            else:
                found = [fitted[other].values[name] for other in others]
                scale = (near.scale or {}).get(name, 1.0)
                note = "as " + ", ".join(others) + (f"; {near.why}" if scale != 1.0 else "")
                yield name, _carried(name, _geometric(found) * scale, near.widen, note)


def _formats(
    pool: str, near: Neighbours, fitted: Mapping[str, KernelFit], compute: Value
) -> Iterator[tuple[str, Value]]:
    """Yield what quantised and mixed models need: fitted where tables tell, else after those that do."""
    own = fitted[pool].values if pool in fitted else {}
    known = {name: [fit.values[name] for fit in fitted.values() if name in fit.values] for name in WIDTHS}
    quantised = known["quantised_compute_efficiency"]
    like_wide = _geometric(quantised) / fitted["ampere-hbm"].values["compute_efficiency"]
    guesses = {
        "quantised_compute_efficiency": (min(1.0, compute.value * like_wide), "as wide products, as on the A100"),
        "fp8_compute_efficiency": (_geometric(known["fp8_compute_efficiency"]), "as Hopper"),
        "expert_efficiency": (_geometric(known["expert_efficiency"]), "between A100 and H200"),
        "router_overhead_s": (_geometric(known["router_overhead_s"]), "between A100 and H200"),
    }
    for name, (guess, note) in guesses.items():
        if name in own:
            yield name, _fitted(name, own[name], f"kernels-{pool}")
        else:
            yield name, _carried(name, guess, max(near.widen, CARRIED), note)
    if "mixed_query_rows" in own:
        yield "mixed_query_rows", _fitted("mixed_query_rows", own["mixed_query_rows"], f"kernels-{pool}")
    else:
        rows = "engines that keep decoding apart have 1, one kernel for all 64 to 128"
        yield "mixed_query_rows", Value(8.0, 1.0, 128.0, "software", rows)
    old = pool.partition("-")[0] in _BEFORE_TENSOR_CORES
    for name, plain, written in (("int8", 5.0, 2.5), ("int4", 8.0, 3.0), ("fp8", 5.0, 2.5)):
        found = Value(plain, 0.8, 40.0, "unpacking-old") if old else Value(written, 0.8, 12.0, "unpacking")
        yield f"dequant_{name}_ops_per_weight", found
    yield "kv_bytes_per_element", Value(2.0, 1.0, 2.0, "format")
    yield "activation_bytes_per_element", Value(2.0, 2.0, 4.0, "format")


def _software(pool: str) -> Iterator[tuple[str, Value]]:
    small = SMALL_KERNELS.get(pool)
    if small is not None:
        yield "layer_overhead_s", Value(small, small / 3.0, small * 2.5, "small-kernels")
    else:
        usual = _geometric([*SMALL_KERNELS.values()])
        yield "layer_overhead_s", Value(usual, 4e-6, 9e-5, "carried", "between A100, A40 and RTX 4090")
    graph = "launched as one graph; kernel by kernel takes 1e-4 and more"
    yield "launch_s", Value(1e-5, 1e-6, 4e-4, "software", graph)
    yield "step_overhead_s", Value(6e-4, 5e-5, 6e-3, "cpu-vidur")
    yield "sequence_overhead_s", Value(2e-5, 1e-6, 1e-4, "cpu-vidur")


def _links(pool: str, links: Sequence[LinkFit]) -> Iterator[tuple[str, Value]]:
    """Yield the share and latency of collectives: of the cards' own NVLink where tables tell, else as PCIe's."""
    devices = {"ampere-hbm": ("a100-80",), "hopper": ("h100-sxm", "h200"), "volta": ("v100-pcie-16",)}
    found = [link for link in links if link.device in devices.get(pool, ())]
    if not found or pool == "volta":
        near, note = (["h100-sxm", "h200"], "as Hopper") if pool == "blackwell-hbm" else (["v100-pcie-16"], _PCIE)
        found = [link for link in links if link.device in near]
        share = _geometric([link.comm_efficiency for link in found])
        yield "comm_efficiency", Value(share if note != _PCIE else 0.4, share / 1.5, 0.9, "carried", note)
        yield "comm_latency_s", Value(1e-6, 1e-7, 2e-5, "carried", note)
        return
    wire_s = float(load_link("nvlink").latency_s)
    hops = [link.hop_latency_s for link in found]
    middle = max(2e-7, median(hops) - wire_s)
    shares = [link.comm_efficiency for link in found]
    errors = _percent(link.median for link in found)
    note = f"{len(found)} tables from {min(shares):.2f} to {max(shares):.2f}; median error {errors}"
    yield "comm_efficiency", Value(median(shares), min(shares) / 1.1, min(1.0, max(shares) * 1.1), "all-reduces", note)
    hop = f"a hop {min(hops) * 1e6:.1f} to {max(hops) * 1e6:.1f} us, of which the link {wire_s * 1e6:.1f}"
    yield "comm_latency_s", Value(middle, 1e-7, max(middle, *hops), "all-reduces", hop)


_PCIE: Final = "PCIe: 0.24 of the V100's; 0.86 over its NVLink"


def _percent(shares: Iterator[float]) -> str:
    found = sorted(shares)
    return f"{found[0]:.0%} to {found[-1]:.0%}"


def _fitted(name: str, value: float, source: str) -> Value:
    return _between(name, value, WIDTHS[name], source, "")


def _carried(name: str, value: float, widen: float, note: str) -> Value:
    return _between(name, value, WIDTHS[name] ** widen, "carried", note)


def _between(name: str, value: float, factor: float, source: str, note: str) -> Value:
    parameter = next(known for known in PARAMETERS if known.name == name)
    low, high = max(value / factor, parameter.low), min(value * factor, parameter.high)
    return Value(value, min(low, value), max(high, value), source, note)


def _geometric(values: Sequence[float]) -> float:
    return exp(sum(log(value) for value in values) / len(values)) if len(values) != 2 else sqrt(values[0] * values[1])


# -- the file ----------------------------------------------------------------------------------------------------------


def generic_text(fits: Sequence[KernelFit], links: Sequence[LinkFit]) -> str:
    """Return the TOML of the generic stack."""
    pools = resolve(fits, links)
    texts = dict(_TEXTS) | {f"kernels-{_place(fit.pool)}": ("fitted", _account(fit)) for fit in fits}
    texts["all-reduces"] = (
        "fitted",
        "all-reduces of " + _repositories(link.source for link in links) + ", each table by itself",
    )
    used = {value.source for values in pools.values() for value in values.values()}
    lines = [
        "# Generic software stack: what a common engine's kernels reach, by architecture. Other stacks start from it.",
        "# Written by `python -m afterwatt.fidelity.kernels.report --write`; no end-to-end measurement is in it.",
        "",
        "[sources]",
    ]
    for name in (name for name in texts if name in used):
        kind, text = texts[name]
        lines.append(f'{name} = {{ text = "{text}", checked = {DATE}, kind = "{kind}" }}')
    tables = {_place(fit.pool) for fit in fits}
    for pool, values in pools.items():
        lines += ["", f"[{pool}]", f'basis = "{"pooled" if pool in tables else "assumed"}"']
        lines += [_line(name, value) for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _line(name: str, value: Value) -> str:
    note = f', note = "{value.note}"' if value.note else ""
    numbers = f"value = {value.value:.4g}, low = {value.low:.4g}, high = {value.high:.4g}"
    return f'{name} = {{ {numbers}, source = "{value.source}"{note} }}'


def _account(fit: KernelFit) -> str:
    """Return what a fit stands on, in one sentence."""
    errors = ", ".join(
        f"{error.device} {error.op.replace('_', ' ')} {error.dtype} {error.median:.0%}"
        for error in fit.errors
        if error.dtype != ALL
    )
    return (
        f"soft-L1 fit on log time to {fit.rows:,} kernels of {_repositories(fit.sources)}; median error on held-out "
        f"shapes: {errors}; interval by judgement"
    )


def _repositories(sources: object) -> str:
    return ", ".join(dict.fromkeys(" ".join(str(source).split(" ")[:2]) for source in sources))  # type: ignore[attr-defined]
