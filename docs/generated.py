"""What README and docs show that no one should type by hand: tables of what is shipped, and the README's figure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields

from hwprofiles import device_names, host_names, link_names, load_device, site_names, storage_names
from hwprofiles.catalogue import ALIASES
from hwprofiles.describe import describe_profile
from hwprofiles.facts import KINDS, Fact
from hwprofiles.stacks import Stack, load_stack
from modelspecs import model_names

SHARES = (
    ("mem_efficiency", "η_mem"),
    ("compute_efficiency", "η_compute"),
    ("gemm_half_tokens", "n½"),
    ("attention_mem_efficiency", "η_att-mem"),
    ("attention_compute_efficiency", "η_att-compute"),
)


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


def _cell(fact: Fact, unit: float = 1.0) -> str:
    low, high = fact.interval
    text = f"{fact / unit:g} ({low / unit:g}–{high / unit:g})"
    return f"*{text}*" if fact.kind == "assumed" else text


def stacks() -> str:
    """Return what software is taken to reach on each architecture, assumed values in italics."""
    pools: dict[str, tuple[Stack, list[str]]] = {}
    for key in device_names():
        stack = load_stack(load_device(key))
        pools.setdefault(stack.pool, (stack, []))[1].append(key)
    order = ["kepler", "maxwell", "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell"]
    rows = [
        [
            f"{pool}: {', '.join(keys)}",
            *(_cell(getattr(stack, name)) for name, _ in SHARES),
            _cell(stack.layer_overhead_s, 1e-6),
            _cell(stack.step_overhead_s, 1e-3),
        ]
        for pool, (stack, keys) in sorted(pools.items(), key=lambda item: order.index(item[0].split("-")[0]))
    ]
    head = ["architecture: cards", *(title for _, title in SHARES), "layer, µs", "step, ms"]
    return f"{table(head, rows)}\nValue (interval); *assumed* in italics, all others fitted.\n\n{_sources()}"


def _sources() -> str:
    """Return the texts behind the fitted values, once each."""
    texts: dict[str, None] = {}
    for key in device_names():
        stack = load_stack(load_device(key))
        facts = [getattr(stack, field.name) for field in fields(stack)] + [*stack.dequant_elements_per_s.values()]
        texts |= {fact.source: None for fact in facts if isinstance(fact, Fact) and fact.kind == "fitted"}
    return "".join(f"- {text}\n" for text in sorted(texts, key=str.lower))


GENERATED: Mapping[str, Callable[[], str]] = {"profiles": profiles, "stacks": stacks}
"""Sections by the name in their marker."""
