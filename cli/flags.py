"""The options of `simulate`: one row each, from which its signature is made.

Numbers and times stay text until `studies.config` reads them. What an option means and takes is said there too; the
text stands here because help must not import it.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, NamedTuple

import typer

from afterwatt.cli import complete

_CROSS: Final = "What runs (repeat an option to compare)"
_LOAD: Final = "What arrives"
_RUN: Final = "How it runs"
_ACCOUNT: Final = "Service level, carbon and cost"
_OUT: Final = "What is written and printed"


class Flag(NamedTuple):
    """An option.

    Attributes:
        section: of the help; those of the first may be repeated.
        help: what it means, with its default in brackets.
        metavar: what it takes; nothing for a switch.
        complete: gives the words that the shell may complete.
    """

    section: str
    help: str
    metavar: str = ""
    complete: Callable[[str], list[str]] | None = None


FLAGS: Final[Mapping[str, Flag]] = {
    "hw": Flag(
        _CROSS,
        "GPUs: m40, 4xm40, 2xa100-80:tp2, 8xh100-sxm:tp4pp2, or a deployment's .toml. [m40]",
        "NAME",
        complete.hardware,
    ),
    "model": Flag(
        _CROSS,
        "A name of `afterwatt model list`, a .toml, or a Hugging Face config.json. [llama-2-7b]",
        "NAME",
        complete.model,
    ),
    "precision": Flag(
        _CROSS,
        "How weights are stored: fp32, fp16, bf16, int8, fp8, int4, ... [auto: as the model's checkpoint, else fp16]",
        "NAME",
        complete.precision,
    ),
    "stack": Flag(
        _CROSS,
        "Software that serves: llama.cpp-cuda, vllm, tensorrt-llm, ..., or a profile that `afterwatt fit` wrote. "
        "[auto: what is usual on the card]",
        "NAME",
        complete.stack,
    ),
    "policy": Flag(
        _CROSS,
        "Words joined by +, such as prefill-first+swap or chunked+budget=512; `afterwatt policy list`. [chunked]",
        "NAME",
        complete.policy,
    ),
    "site": Flag(
        _CROSS, "Whose electricity: fr, pl, us-cal-ciso, ..., or a site's .toml. [world]", "ZONE", complete.site
    ),
    "trace": Flag(
        _LOAD,
        "A trace in any format that `afterwatt trace formats` lists, or synth:chat?rate=0.5&n=2000. "
        "[chat.parquet: the shipped sample, where no such file is here]",
        "PATH",
    ),
    "limit": Flag(_LOAD, "Only the first N requests of the trace.", "N"),
    "rate": Flag(
        _LOAD, "Mean requests per second: stretches a trace's clock, or draws arrivals where it has none.", "PER_S"
    ),
    "users": Flag(_LOAD, "Closed loop: N users with the trace's lengths, each waiting for the answer.", "N"),
    "think": Flag(_LOAD, "Pause of a user between requests, 5s. [0s]", "TIME"),
    "requests": Flag(_LOAD, "Requests of all users. [as many as the trace has]", "N"),
    "batch": Flag(_LOAD, "One static batch of N equal requests instead of a trace.", "N"),
    "prompt": Flag(_LOAD, "Prompt length of the batch.", "TOKENS"),
    "output": Flag(_LOAD, "Output length of the batch.", "TOKENS"),
    "slo": Flag(_ACCOUNT, "What users are promised: ttft=1s,tpot=200ms,e2e=30s, or some of these.", "LIMITS"),
    "strict-slo": Flag(_ACCOUNT, "Exit with 3 if no run keeps 90 % of its promises."),
    "basis": Flag(_ACCOUNT, "Carbon of electricity: lifecycle or direct; marginal with --grid. [lifecycle]", "NAME"),
    "grid": Flag(_ACCOUNT, "Hourly carbon intensity, .csv or .parquet.", "FILE"),
    "grid-zone": Flag(_ACCOUNT, "Zone to read from that file.", "ZONE"),
    "start": Flag(_ACCOUNT, "Wall clock at t = 0, such as 2023-06-01T00:00:00Z. [the trace's own]", "TIME"),
    "repeat-year": Flag(_ACCOUNT, "Repeat the hourly series where it does not reach."),
    "pue": Flag(_ACCOUNT, "The building's power over its computers'. [the site's: 1.58]", "RATIO"),
    "kwh-price": Flag(_ACCOUNT, "What a kWh costs. [the site's]", "USD"),
    "host": Flag(
        _ACCOUNT, "The server that holds the cards; `afterwatt hw list --kind hosts`. [the card's usual]", "NAME"
    ),
    "server-price": Flag(_ACCOUNT, "What a whole server cost, without cards. [its profile's]", "USD"),
    "card-price": Flag(_ACCOUNT, "What a card cost, new or used. [its profile's]", "USD"),
    "bought": Flag(
        _ACCOUNT,
        "The hardware: new, second-hand, owned, or auto: second-hand from 5 years after the card came out. [auto]",
        "HOW",
    ),
    "life": Flag(_ACCOUNT, "Years for which cards and servers stay from now on. [new 5, second-hand 4]", "YEARS"),
    "duty": Flag(_ACCOUNT, "Share of reserved time that looks like the run, 0.25, or hours a day, 6h. [1]", "SHARE"),
    "between": Flag(_ACCOUNT, "The hardware in the rest: off or idle. [off]", "STATE"),
    "embodied": Flag(
        _ACCOUNT, "Embodied carbon of the headline; all methods are reported. [card-lca]", "METHOD", complete.embodied
    ),
    "allocation": Flag(
        _ACCOUNT,
        "How a life's carbon is shared out: linear, remaining, avoidable, ... [linear]",
        "NAME",
        complete.allocation,
    ),
    "host-share": Flag(
        _ACCOUNT, "What the headline counts of a server: the slots in use, or whole; both are shown. [slots]", "RULE"
    ),
    "draws": Flag(_ACCOUNT, "Draws of what is uncertain. [1000]", "N"),
    "horizon": Flag(_RUN, "Stop then, and count what is left as unfinished. [when all is done]", "TIME"),
    "warmup": Flag(_RUN, "Leave earlier arrivals out of the latencies. [0s]", "TIME"),
    "seed": Flag(_RUN, "Root of everything random. [0]", "N"),
    "replications": Flag(
        _RUN,
        "Run under N seeds from --seed on and give means with 95 % intervals; a fixed trace stays the same, "
        "a synthetic one is drawn anew. [1]",
        "N",
    ),
    "jobs": Flag(_RUN, "Runs of a study at a time; -1: all cores. [1]", "N"),
    "single-step": Flag(_RUN, "Take every iteration singly: slower, to the same result."),
    "shuffle-ties": Flag(_RUN, "Scramble the making of same-instant events.", "N"),
    "config": Flag(_RUN, "Take options from a file, under the same names; those given here win.", "STUDY.toml"),
    "dry-run": Flag(_RUN, "List what would run, and stop."),
    "out": Flag(_OUT, "Directory of the run or study. [runs/ and a name that is not taken]", "DIR"),
    "overwrite": Flag(_OUT, "Replace runs that stand there already."),
    "no-report": Flag(_OUT, "Write no report.html."),
    "no-bounds": Flag(_OUT, "Leave out the 90 % intervals of times and throughput, which take two further passes."),
    "decisions": Flag(_OUT, "Also write every decision: decisions.parquet."),
    "json": Flag(_OUT, "Print summary.json, or a list of them, and nothing else."),
    "quiet": Flag(_OUT, "Print nothing but errors."),
}
"""Name -> option, in the order of the help; all but `config` and `dry-run` are words of a study."""
_HIDDEN: Final = ("shuffle-ties",)
_SHORT: Final = {"quiet": "-q"}


def option(name: str) -> Any:  # noqa: ANN401 - typer's own type is none it shows
    """Make typer's option of a row."""
    flag = FLAGS[name]
    return typer.Option(
        f"--{name}",
        *([_SHORT[name]] if name in _SHORT else []),
        metavar=flag.metavar or None,
        autocompletion=flag.complete,
        rich_help_panel=flag.section,
        help=flag.help,
        hidden=name in _HIDDEN,
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"afterwatt {importlib.metadata.version('afterwatt')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
]
ListJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Trace = Annotated[str | None, option("trace")]
Quiet = Annotated[bool, option("quiet")]


def signature() -> inspect.Signature:
    """Give the signature of a function that takes every option, for typer to read."""
    kinds = {
        name: bool if not flag.metavar else list[str] | None if flag.section == _CROSS else str | None
        for name, flag in FLAGS.items()
    }
    annotations = {name: Annotated[kind, option(name)] for name, kind in kinds.items()} | {"version": Version}
    return inspect.Signature(
        [
            inspect.Parameter(
                name.replace("-", "_"),
                inspect.Parameter.KEYWORD_ONLY,
                default=None if kinds.get(name, bool) is not bool else False,
                annotation=annotation,
            )
            for name, annotation in annotations.items()
        ]
    )
