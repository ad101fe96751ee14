"""`afterwatt trace`: look at a trace, convert one, draw one."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from afterwatt.cli import complete, flags
from afterwatt.studies.errors import OptionError
from afterwatt.studies.values import number, whole

if TYPE_CHECKING:
    from afterwatt.traces import Trace

_INPUT = "How the input is read"
Text = str | None
PathArgument = Annotated[str, typer.Argument(metavar="TRACE", help="A file, or an address such as synth:chat?n=2000.")]
OutArgument = Annotated[str, typer.Argument(metavar="OUT", help="File to write: .parquet or .csv.")]
Format = Annotated[
    Text,
    typer.Option(
        "--format",
        metavar="NAME",
        autocompletion=complete.trace_format,
        rich_help_panel=_INPUT,
        help="Reader to use. [recognised by content]",
    ),
]
Unit = Annotated[
    Text, typer.Option("--unit", metavar="UNIT", rich_help_panel=_INPUT, help="Of arrivals: s, ms, us or ns.")
]
Sort = Annotated[bool, typer.Option("--sort", rich_help_panel=_INPUT, help="Put rows in order of arrival.")]
DropEmpty = Annotated[
    bool,
    typer.Option("--drop-empty", rich_help_panel=_INPUT, help="Leave out requests without tokens; says how many."),
]
Rate = Annotated[
    Text,
    typer.Option(
        "--rate", metavar="PER_S", rich_help_panel=_INPUT, help="Mean requests per second: stretches or draws arrivals."
    ),
]
Cv = Annotated[
    Text,
    typer.Option(
        "--cv", metavar="X", rich_help_panel=_INPUT, help="Variation of drawn gaps: 1 is Poisson, 0 evenly spaced."
    ),
]
Limit = Annotated[Text, typer.Option("--limit", metavar="N", rich_help_panel=_INPUT, help="Only the first N requests.")]
Duration = Annotated[
    Text, typer.Option("--duration", metavar="SECONDS", rich_help_panel=_INPUT, help="Only arrivals up to then.")
]
Start = Annotated[
    Text, typer.Option("--start", metavar="SECONDS", rich_help_panel=_INPUT, help="Where in a rate table to begin.")
]
Lengths = Annotated[
    Text, typer.Option("--lengths", metavar="FILE", rich_help_panel=_INPUT, help="Length tables of a rate table.")
]
Seed = Annotated[Text, typer.Option("--seed", metavar="N", rich_help_panel=_INPUT, help="Root of what is drawn. [0]")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")]


def describe(
    trace: PathArgument,
    format: Format = None,  # noqa: A002 - the option's name
    unit: Unit = None,
    sort: Sort = False,
    drop_empty: DropEmpty = False,
    rate: Rate = None,
    cv: Cv = None,
    limit: Limit = None,
    duration: Duration = None,
    start: Start = None,
    lengths: Lengths = None,
    seed: Seed = None,
    json: flags.ListJson = False,
) -> None:
    """Measure a trace: rates, burstiness, lengths, daily cycle, shared prefixes."""
    from afterwatt.traces import describe as measure

    found = measure(open_input(trace, format, _wishes(locals())))
    if json:
        _print_json(found)
    else:
        from afterwatt.cli.tracetable import print_description

        print_description(found)


def convert(
    trace: PathArgument,
    out: OutArgument,
    format: Format = None,  # noqa: A002 - the option's name
    unit: Unit = None,
    sort: Sort = False,
    drop_empty: DropEmpty = False,
    rate: Rate = None,
    cv: Cv = None,
    limit: Limit = None,
    duration: Duration = None,
    start: Start = None,
    lengths: Lengths = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a trace in our own format, as .parquet or .csv."""
    write(open_input(trace, format, _wishes(locals())), Path(out), overwrite)


def synth(
    preset: Annotated[
        str,
        typer.Argument(
            metavar="PRESET", autocompletion=complete.preset, help="A name of `afterwatt trace presets`, or fixed."
        ),
    ],
    out: OutArgument,
    rate: Annotated[Text, typer.Option("--rate", metavar="PER_S", help="Requests per second. [the source's]")] = None,
    n: Annotated[Text, typer.Option("--n", metavar="N", help="How many requests.")] = None,
    duration: Annotated[Text, typer.Option("--duration", metavar="SECONDS", help="For how long.")] = None,
    seed: Annotated[Text, typer.Option("--seed", metavar="N", help="Root of all draws. [0]")] = None,
    cv: Annotated[Text, typer.Option("--cv", metavar="X", help="Gamma gaps of this variation. [the source's]")] = None,
    daily: Annotated[bool, typer.Option("--daily/--no-daily", help="Follow the source's daily cycle.")] = True,
    hour: Annotated[Text, typer.Option("--hour", metavar="H", help="Hour of day at the first arrival. [12]")] = None,
    max_tokens: Annotated[
        Text, typer.Option("--max-tokens", metavar="N", help="Most that prompt and output have together.")
    ] = None,
    prompt_scale: Annotated[Text, typer.Option("--prompt-scale", metavar="X", help="Multiply prompt lengths.")] = None,
    output_scale: Annotated[Text, typer.Option("--output-scale", metavar="X", help="Multiply output lengths.")] = None,
    prompt: Annotated[Text, typer.Option("--prompt", metavar="TOKENS", help="Constant prompt length of fixed.")] = None,
    output: Annotated[Text, typer.Option("--output", metavar="TOKENS", help="Constant output length of fixed.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw a synthetic trace from a preset and write it."""
    from afterwatt.traces import open_trace

    said = {name: value for name, value in locals().items() if name in _SYNTH + _FIXED and value is not None}
    address = f"synth:{preset}?" + "&".join(f"{name}={value}" for name, value in said.items())
    address += "" if daily else "&daily=no"
    write(open_trace(address), Path(out), overwrite)


def presets(json: flags.ListJson = False) -> None:
    """List what synthetic traces can be drawn from."""
    from afterwatt.cli.tables import Column, Footnotes, print_table
    from afterwatt.traces.presets import load_preset, preset_names

    found = [load_preset(name) for name in preset_names()]
    if json:
        _print_json([{"name": p.name, "about": p.about, "rate_per_s": p.rate_per_s, "source": p.source} for p in found])
        return
    sources = Footnotes()
    rows = [
        [p.name, p.about, "-" if p.rate_per_s is None else f"{p.rate_per_s:.3g}", sources.cite(p.source)] for p in found
    ]
    rows.append(["fixed", "constant lengths: --prompt and --output", "-", ""])
    columns = [Column("preset", folds=False), Column("what"), Column("requests/s", right=True), Column("fitted to")]
    print_table(columns, rows, sources=sources.texts)


def formats(json: flags.ListJson = False) -> None:
    """List the trace formats that are recognised."""
    from afterwatt.cli.tables import Column, print_table
    from afterwatt.traces import FORMATS

    found = [{"name": form.name, "about": form.about, "columns": list(form.required)} for form in FORMATS.values()]
    if json:
        _print_json(found)
        return
    columns = [Column("format", folds=False), Column("what"), Column("known by its columns")]
    print_table(columns, [[str(f["name"]), str(f["about"]), ", ".join(f["columns"])] for f in found])


def open_input(trace: str, form: str | None, wishes: dict[str, Any]) -> "Trace":
    """Open a trace with wishes (fields of `traces.Options`); errors as `traces.open_trace`."""
    from afterwatt.studies.workloads import trace_address
    from afterwatt.traces import open_trace

    return open_trace(trace_address(trace), format=form, **wishes)


def write(trace: "Trace", out: Path, overwrite: bool = False) -> int:
    """Write a trace whole or not at all, say so, and give the number of requests.

    Raises:
        OptionError: something stands there.
        TraceError: the trace has a fault, or the place cannot be written.
    """
    from afterwatt.traces import write_trace

    if out.exists() and not overwrite:
        raise OptionError(f"{out} is there already; choose another name, or say --overwrite")
    rows = write_trace(trace, out)
    for note in trace.info.notes:
        sys.stderr.write(f"note: {note}\n")
    sys.stdout.write(f"{rows:,} requests: {out}\n")
    return rows


_SYNTH: Final = ("rate", "n", "duration", "seed", "cv", "hour", "max_tokens", "prompt_scale", "output_scale")
_FIXED: Final = ("prompt", "output")
_WISHES: Final = {
    "seed": ("seed", whole(0)),
    "rate": ("rate_per_s", number(0.0)),
    "cv": ("cv", number(-1e-9)),
    "limit": ("requests", whole(1)),
    "duration": ("duration_s", number(0.0)),
    "start": ("start_s", number(-1e-9)),
}


def _wishes(given: dict[str, Any]) -> dict[str, Any]:
    """Turn the options that were given into fields of `traces.Options`."""
    wishes = {name: given[name] for name in ("unit", "lengths") if given[name] is not None}
    wishes |= {name: True for name in ("sort", "drop_empty") if given[name]}
    for name, (field, parse) in _WISHES.items():
        if given[name] is not None:
            wishes[field] = parse(given[name], f"--{name}")
    return wishes


def _print_json(data: object) -> None:
    from afterwatt.reports.schema import to_json

    sys.stdout.write(to_json(data))


COMMANDS: Final[tuple[str, Mapping[str, Callable[..., Any]]]] = (
    "Look at request traces, convert them, draw synthetic ones.",
    {"describe": describe, "convert": convert, "synth": synth, "presets": presets, "formats": formats},
)
