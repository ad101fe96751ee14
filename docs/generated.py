"""What README and docs show that no one should type by hand: tables of what is shipped, and the README's figure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import partial

import pyarrow as pa

from afterwatt.hwprofiles import device_names, host_names, link_names, load_device, site_names, storage_names
from afterwatt.hwprofiles.catalogue import ALIASES
from afterwatt.hwprofiles.describe import describe_profile
from afterwatt.hwprofiles.facts import KINDS, Fact
from afterwatt.hwprofiles.stacks import BASES, DEFAULT_STACK, Spread, Stack, load_pools, stack_names
from afterwatt.modelspecs import model_names
from afterwatt.reports.columns import BODIES, TABLES

COLUMNS = (
    ("mem_efficiency", "memory", 1.0),
    ("compute_efficiency", "compute", 1.0),
    ("kernel_latency_s", "kernel, µs", 1e-6),
    ("roofline_sharpness", "sharpness", 1.0),
    ("attention_mem_efficiency", "attention memory", 1.0),
    ("attention_compute_efficiency", "attention compute", 1.0),
    ("dequant_int4_ops_per_weight", "unpack int4, ops", 1.0),
    ("layer_overhead_s", "layer, µs", 1e-6),
    ("step_overhead_s", "step, ms", 1e-3),
)
"""Parameters of a stack that a reader would ask for first: name, title, unit."""
ARCHITECTURES = (
    "kepler", "maxwell", "pascal", "volta",
    "gcn5", "turing", "ampere", "ada", "hopper", "blackwell", "cdna2", "cdna3",
    "xehpg",
    "xe2",
)  # fmt: skip
"""Oldest first."""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *map(list, rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def profiles() -> str:
    """Return the shipped cards, with how many of their numbers are of which kind."""
    rows = []
    for key in device_names():
        card = load_device(key)
        kinds = Counter(row.kind for row in describe_profile(card) if row.kind)
        fast = card.flops_per_s.get("fp16")
        rows.append(
            [
                ", ".join(f"`{name}`" for name in (key, *(alias for alias, of in ALIASES.items() if of == key))),
                card.name,
                str(card.year),
                f"{card.memory_bytes / 2**30:.0f} GiB {card.memory_type}",
                f"{card.mem_bandwidth_bytes_per_s / 1e9:,.0f}",
                f"{card.flops_per_s['fp32'] / 1e12:.1f}",
                "–" if fast is None else f"{fast / 1e12:.0f}",
                f"{card.tdp_w:.0f}",
                *(str(kinds[kind]) for kind in KINDS),
            ]
        )
    head = ["`--hw`", "card", "year", "memory", "GB/s", "fp32 TFLOP/s", "fp16", "W", *KINDS]
    counts = (
        f"{len(host_names())} hosts, {len(storage_names())} disks, {len(link_names())} links, "
        f"{len(site_names())} sites and {len(model_names())} models."
    )
    return f"{table(head, rows)}\nThe last columns count numbers by provenance. Beside the cards: {counts}\n"


def cards() -> str:
    """Return the shipped cards by architecture, by name only."""
    found: dict[str, list[str]] = {}
    for key in device_names():
        found.setdefault(load_device(key).architecture, []).append(f"`{key}`")
    rows = [[name, ", ".join(found[name])] for name in sorted(found, key=ARCHITECTURES.index)]
    return table(["architecture", "`--hw`"], rows)


def _cell(fact: Fact, unit: float = 1.0) -> str:
    low, high = fact.interval
    text = f"{fact / unit:.3g} ({low / unit:.3g}–{high / unit:.3g})"
    return f"*{text}*" if fact.kind == "assumed" else text


def stacks() -> str:
    """Return what software is taken to reach on each architecture before any published run is looked at."""
    rows = [
        [pool, *(_cell(getattr(stack, name), unit) for name, _, unit in COLUMNS)]
        for pool, stack in sorted(load_pools(DEFAULT_STACK).items(), key=_age)
    ]
    head = ["pool", *(title for _, title, _ in COLUMNS)]
    return f"{table(head, rows)}\nValue (90 % interval); *assumed* in italics, all others fitted.\n\n{_sources()}"


def _age(item: tuple[str, Stack]) -> tuple[int, str]:
    """Order pools by the age of their architecture; those of a single card by that of the card's."""
    pool = item[0]
    architecture = load_device(pool).architecture if pool in device_names() else pool.split("-")[0]
    return ARCHITECTURES.index(architecture), pool


def _sources() -> str:
    """Return the texts behind the fitted values, once each."""
    texts: dict[str, None] = {}
    for stack in load_pools(DEFAULT_STACK).values():
        facts = [getattr(stack, field.name) for field in fields(stack)]
        texts |= {fact.source: None for fact in facts if isinstance(fact, Fact) and fact.kind == "fitted"}
    return "".join(f"- {text}\n" for text in sorted(texts, key=str.lower))


def fitted() -> str:
    """Return what the shipped stacks stand on, pool by pool, and how far their times were off."""
    rows = []
    for name in stack_names():
        if name == DEFAULT_STACK:
            continue
        by_basis: dict[tuple[str, ...], list[str]] = {}
        for pool, stack in sorted(load_pools(name).items(), key=_age):
            errors = tuple(_factors(stack.spread.get(phase)) for phase in ("prefill", "decode"))
            by_basis.setdefault((stack.basis, *errors), []).append(pool)
        order = sorted(by_basis.items(), key=lambda item: BASES.index(item[0][0]))
        rows += [[f"`{name}`", basis, ", ".join(pools), *errors] for (basis, *errors), pools in order]
    head = ["stack", "basis", "pools", "prompts, 90 %", "output tokens, 90 %"]
    return table(head, rows)


def _factors(spread: Spread | None) -> str:
    return "–" if spread is None else f"{spread.low:.2f}–{spread.high:.2f}"


def _type(kind: pa.DataType) -> str:
    text = pa.types.is_dictionary(kind) or pa.types.is_string(kind)
    return "text" if text else str(kind).replace("double", "float64")


def _columns(name: str) -> str:
    """Return the columns of a table of a run directory."""
    rows = [
        [
            f"`{column.name}`",
            f"{_type(column.kind)}{'' if column.known else ', null'}",
            column.unit,
            column.meaning,
            "all" if column.bodies == BODIES else ", ".join(column.bodies),
        ]
        for column in TABLES[name]
    ]
    return table(["column", "type", "unit", "meaning", "known to"], rows)


GENERATED: Mapping[str, Callable[[], str]] = {
    "profiles": profiles,
    "cards": cards,
    "stacks": stacks,
    "fitted": fitted,
    **{f"columns-{name}": partial(_columns, name) for name in TABLES},
}
"""Sections by the name in their marker."""
