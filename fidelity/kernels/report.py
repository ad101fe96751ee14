"""Fit the time model's kernels to published tables, say how far off they are, and write the generic stack.

    python -m afterwatt.fidelity.kernels.report [--tables ../shared/kernels] [--write] [--json]

prints, as Markdown, the error per GPU on shapes that the fit has not seen, which tables and shape ranges were used, and
what was left out and why; with --write, `hwprofiles/data/stacks/generic.toml` is written anew from the result.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from afterwatt.fidelity.kernels.comm import LinkFit, fit_links, read_all_reduces
from afterwatt.fidelity.kernels.fit import ALL, KernelFit, LeftOutTable, fit_kernels, usable
from afterwatt.fidelity.kernels.generic import generic_text
from afterwatt.fidelity.kernels.readers import read_published
from afterwatt.fidelity.kernels.table import SHAPE, KernelTableError
from afterwatt.fidelity.page.page import Claim, Section
from afterwatt.fidelity.page.page import table as markdown
from afterwatt.hwprofiles.stacks import PARAMETERS, STACKS_DIR

ASKED: Final = 0.15
TABLES: Final = Path(__file__).resolve().parents[2] / "../shared/kernels"


def section(shared: Path) -> Section | None:
    """Fit the published tables and return the result as a part of the fidelity page; None where there are none.

    Args:
        shared: folder that holds `kernels/`.
    """
    folder = shared / "kernels"
    if not folder.is_dir():
        return None
    table, left = usable(read_published(folder))
    fits = fit_kernels(table)
    return Section("Kernels", report(table, left, fits, fit_links(read_all_reduces(folder))), tuple(_claims(fits)))


def _claims(fits: Sequence[KernelFit]) -> Iterator[Claim]:
    for kind, words in (("gemm", "Matrix products"), ("attention", "Attention")):
        found = {
            error.device: error.median for fit in fits for error in fit.errors if (error.op, error.dtype) == (kind, ALL)
        }
        worst = max(found, key=lambda device: found[device])
        reached = f"{min(found.values()):.1%} to {found[worst]:.1%} ({worst})"
        yield Claim(
            f"{words} on held-out shapes, median error per GPU", f"≤ {ASKED:.0%}", reached, found[worst] <= ASKED
        )


def report(
    table: pd.DataFrame, left: Sequence[LeftOutTable], fits: Sequence[KernelFit], links: Sequence[LinkFit]
) -> str:
    """Return, as Markdown, errors, parameters, tables with their ranges, and what was left out."""
    return "\n".join(
        [
            "At most eight parameters per architecture, four of matrix products and four of attention, fitted to",
            "kernel times that other projects measured. A quarter of the *shapes* was held out, whole: pairs of",
            "matrix sides, combinations of heads, or, of tables with few of those, octaves of the context. The time",
            "model is made of the same formulas (`hwprofiles/kernels.py`). What is stored in 8 or 4 bits, mixtures of",
            "experts and decoding beside prompts have one or two parameters more each, fitted after those. The same",
            "table format (`fidelity/kernels/table.py`) serves a GPU of one's own; all this is done again by",
            "`python -m afterwatt.fidelity.kernels.report`.",
            "",
            _errors(fits),
            "Fitted to all rows once the held-out ones had judged the form (what the `generic` stack holds):",
            "",
            _parameters(fits),
            "All-reduces, two parameters for each table by itself, octaves of the message held out:",
            "",
            _links(links),
            "Tables and ranges of shapes:",
            "",
            _ranges(table),
            "Left out:",
            "",
            _left_out(left),
        ]
    )


def _errors(fits: Sequence[KernelFit]) -> str:
    errors = sorted((error for fit in fits for error in fit.errors), key=lambda error: (error.device, error.op))
    rows = (
        [
            error.device,
            error.op.replace("_", " "),
            error.dtype,
            f"{error.fitted:,}",
            f"{error.rows:,}",
            f"{error.median:.1%}",
            f"{error.p90:.1%}",
            f"{error.bias:+.1%}",
        ]
        for error in errors
    )
    return markdown(
        ["GPU", "operation", "stored", "rows seen", "held out", "median error", "90th percentile", "bias"], rows
    )


def _parameters(fits: Sequence[KernelFit]) -> str:
    names = [name for name in (parameter.name for parameter in PARAMETERS) if any(name in fit.values for fit in fits)]
    rows = ([f"`{name}`", *(_number(fit.values.get(name)) for fit in fits)] for name in names)
    return markdown(["parameter", *(fit.pool for fit in fits)], rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _links(links: Sequence[LinkFit]) -> str:
    rows = (
        [
            link.device,
            link.source,
            f"{link.comm_efficiency:.2f}",
            f"{link.hop_latency_s * 1e6:.1f}",
            str(link.rows),
            f"{link.median:.0%}",
            f"{link.p90:.0%}",
        ]
        for link in links
    )
    return markdown(["GPU", "source", "share of link", "µs per hop", "held out", "median", "90th percentile"], rows)


def _ranges(table: pd.DataFrame) -> str:
    repository = table["source"].str.split(" ").str[:2].str.join(" ")
    rows = []
    for (device, op, dtype, name), part in table.groupby(["device", "op", "dtype", repository], sort=True):
        spans = (f"{column} {_span(part[column])}" for column in SHAPE[str(op)])
        rows.append([str(device), str(op).replace("_", " "), str(dtype), str(name), f"{len(part):,}", ", ".join(spans)])
    return markdown(["GPU", "operation", "stored", "source", "rows", "shapes"], rows)


def _span(values: "pd.Series[float]") -> str:
    low, high = np.min(values), np.max(values)
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"


def _left_out(left: Sequence[LeftOutTable]) -> str:
    return markdown(
        ["source", "operation", "rows", "why"], ([one.source, one.op, f"{one.rows:,}", one.why] for one in left)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of the published tables")
    parser.add_argument("--write", action="store_true", help="write the generic stack from the result")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    try:
        table, left = usable(read_published(options.tables))
    except KernelTableError as fault:
        print(fault, file=sys.stderr)
        return 2
    fits, links = fit_kernels(table), fit_links(read_all_reduces(options.tables))
    if options.json:
        print(
            json.dumps({"fits": [asdict(fit) for fit in fits], "links": [link._asdict() for link in links]}, indent=2)
        )
    else:
        print(report(table, left, fits, links))
    if options.write:
        (STACKS_DIR / "generic.toml").write_text(generic_text(fits, links), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
