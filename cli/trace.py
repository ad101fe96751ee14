"""`afterwatt trace`: look at a trace, convert one, draw one."""

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from afterwatt.cli import complete, flags
from afterwatt.cli.output import print_json
from afterwatt.studies.errors import OptionError
from afterwatt.studies.values import number, whole

if TYPE_CHECKING:
    from afterwatt.traces import Trace

_INPUT = "How the input is read"
Text = str | None
PathArgument = Annotated[str, typer.Argument(metavar="TRACE", help="A file, or an address such as synth:chat?n=2000.")]
OutArgument = Annotated[str, typer.Argument(metavar="OUT", help="File to write: .parquet or .csv.")]
_READING: Final[Mapping[str, Any]] = {
    "format": flags.opt("NAME", "Reader to use. [recognised by content]", autocompletion=complete.trace_format),
    "unit": flags.opt("UNIT", "Of arrivals: s, ms, us or ns."),
    "sort": typer.Option("--sort", help="Put rows in order of arrival."),
    "drop_empty": typer.Option("--drop-empty", help="Leave out requests without tokens; says how many."),
    "rate": flags.opt("PER_S", "Mean requests per second: stretches or draws arrivals."),
    "cv": flags.opt("X", "Variation of drawn gaps: 1 is Poisson, 0 evenly spaced."),
    "limit": flags.opt("N", "Only the first N requests."),
    "duration": flags.opt("SECONDS", "Only arrivals up to then."),
    "start": flags.opt("SECONDS", "Where in a rate table to begin."),
    "lengths": flags.opt("FILE", "Length tables of a rate table."),
    "seed": flags.opt("N", "Root of what is drawn. [0]"),
}
"""How the input is read, by parameter."""
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")]


def _reading(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_READING` before those of its own that may be left out."""
    options = []
    for name, option in _READING.items():
        option.rich_help_panel = _INPUT
        kind = bool if option.metavar is None else Text
        default = False if kind is bool else None
        options.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
        )
    own = [one for one in inspect.signature(command).parameters.values() if one.kind is not one.VAR_KEYWORD]
    own.sort(key=lambda one: one.default is not one.empty)
    arguments = [one for one in own if one.default is one.empty]
    rest = [one.replace(kind=one.KEYWORD_ONLY) for one in own[len(arguments) :]]
    command.__signature__ = inspect.Signature([*arguments, *options, *rest])  # type: ignore[attr-defined]
    return command


@_reading
def describe(trace: PathArgument, json: flags.ListJson = False, **given: Any) -> None:  # noqa: ANN401 - see _READING
    """Measure a trace: rates, burstiness, lengths, daily cycle, shared prefixes."""
    from afterwatt.traces import describe as measure

    found = measure(open_input(trace, given["format"], _wishes(given)))
    if json:
        print_json(found)
    else:
        from afterwatt.cli.tracetable import print_description

        print_description(found)


@_reading
def convert(trace: PathArgument, out: OutArgument, overwrite: Overwrite = False, **given: Any) -> None:  # noqa: ANN401
    """Write a trace in our own format, as .parquet or .csv."""
    write(open_input(trace, given["format"], _wishes(given)), Path(out), overwrite)


def synth(
    preset: Annotated[
        str,
        typer.Argument(
            metavar="PRESET", autocompletion=complete.preset, help="A name of `afterwatt trace presets`, or fixed."
        ),
    ],
    out: OutArgument,
    rate: Annotated[Text, flags.opt("PER_S", "Requests per second. [the source's]")] = None,
    n: Annotated[Text, flags.opt("N", "How many requests.")] = None,
    duration: Annotated[Text, flags.opt("SECONDS", "For how long.")] = None,
    seed: Annotated[Text, flags.opt("N", "Root of all draws. [0]")] = None,
    cv: Annotated[Text, flags.opt("X", "Gamma gaps of this variation. [the source's]")] = None,
    daily: Annotated[bool, typer.Option("--daily/--no-daily", help="Follow the source's daily cycle.")] = True,
    hour: Annotated[Text, flags.opt("H", "Hour of day at the first arrival. [12]")] = None,
    max_tokens: Annotated[Text, flags.opt("N", "Most that prompt and output have together.")] = None,
    prompt_scale: Annotated[Text, flags.opt("X", "Multiply prompt lengths.")] = None,
    output_scale: Annotated[Text, flags.opt("X", "Multiply output lengths.")] = None,
    prompt: Annotated[Text, flags.opt("TOKENS", "Constant prompt length of fixed.")] = None,
    output: Annotated[Text, flags.opt("TOKENS", "Constant output length of fixed.")] = None,
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
        print_json([{"name": p.name, "about": p.about, "rate_per_s": p.rate_per_s, "source": p.source} for p in found])
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
        print_json(found)
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


COMMANDS: Final[tuple[str, Mapping[str, Callable[..., Any]]]] = (
    "Look at request traces, convert them, draw synthetic ones.",
    {"describe": describe, "convert": convert, "synth": synth, "presets": presets, "formats": formats},
)
