"""The options of `simulate`, one type each; numbers and times stay text until `settings` reads them."""

from typing import Annotated

import typer

from afterwatt.cli import complete

Words = list[str] | None
Text = str | None

_CROSS = "What runs (repeat an option to compare)"
_LOAD = "What arrives"
_RUN = "How it runs"
_ACCOUNT = "Service level, carbon and cost"
_OUT = "What is written and printed"


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"afterwatt {importlib.metadata.version('afterwatt')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
]
Hw = Annotated[
    Words,
    typer.Option(
        "--hw",
        metavar="NAME",
        autocompletion=complete.hardware,
        rich_help_panel=_CROSS,
        help="GPUs: m40, 4xm40, 2xa100-80:tp2, 8xh100-sxm:tp4pp2, or a deployment's .toml. [m40]",
    ),
]
Model = Annotated[
    Words,
    typer.Option(
        "--model",
        metavar="NAME",
        autocompletion=complete.model,
        rich_help_panel=_CROSS,
        help="A name of `afterwatt model list`, a .toml, or a Hugging Face config.json. [llama-2-7b]",
    ),
]
Precision = Annotated[
    Words,
    typer.Option(
        "--precision",
        metavar="NAME",
        autocompletion=complete.precision,
        rich_help_panel=_CROSS,
        help="How weights are stored: fp32, fp16, bf16, int8, fp8, int4. [fp16]",
    ),
]
Stack = Annotated[
    Words,
    typer.Option(
        "--stack",
        metavar="NAME",
        autocompletion=complete.stack,
        rich_help_panel=_CROSS,
        help="Software that serves: llama.cpp-cuda, vllm, tensorrt-llm, ..., or a profile that `afterwatt fit` wrote. "
        "[auto: what is usual on the card]",
    ),
]
Policy = Annotated[
    Words,
    typer.Option(
        "--policy",
        metavar="NAME",
        autocompletion=complete.policy,
        rich_help_panel=_CROSS,
        help="Words joined by +, such as prefill-first+swap or chunked+budget=512; `afterwatt policy list`. [chunked]",
    ),
]
Site = Annotated[
    Words,
    typer.Option(
        "--site",
        metavar="ZONE",
        autocompletion=complete.site,
        rich_help_panel=_CROSS,
        help="Whose electricity: fr, pl, us-cal-ciso, ..., or a site's .toml. [world]",
    ),
]
Trace = Annotated[
    Text,
    typer.Option(
        "--trace",
        metavar="PATH",
        rich_help_panel=_LOAD,
        help="A trace in any format that `afterwatt trace formats` lists, or synth:chat?rate=0.5&n=2000. "
        "[chat.parquet: the shipped sample, where no such file is here]",
    ),
]
Limit = Annotated[
    Text, typer.Option("--limit", metavar="N", rich_help_panel=_LOAD, help="Only the first N requests of the trace.")
]
Rate = Annotated[
    Text,
    typer.Option(
        "--rate",
        metavar="PER_S",
        rich_help_panel=_LOAD,
        help="Mean requests per second: stretches a trace's clock, or draws arrivals where it has none.",
    ),
]
Users = Annotated[
    Text,
    typer.Option(
        "--users",
        metavar="N",
        rich_help_panel=_LOAD,
        help="Closed loop: N users with the trace's lengths, each waiting for the answer.",
    ),
]
Think = Annotated[
    Text,
    typer.Option("--think", metavar="TIME", rich_help_panel=_LOAD, help="Pause of a user between requests, 5s. [0s]"),
]
Requests = Annotated[
    Text,
    typer.Option(
        "--requests", metavar="N", rich_help_panel=_LOAD, help="Requests of all users. [as many as the trace has]"
    ),
]
Batch = Annotated[
    Text,
    typer.Option(
        "--batch", metavar="N", rich_help_panel=_LOAD, help="One static batch of N equal requests instead of a trace."
    ),
]
Prompt = Annotated[
    Text, typer.Option("--prompt", metavar="TOKENS", rich_help_panel=_LOAD, help="Prompt length of the batch.")
]
Output = Annotated[
    Text, typer.Option("--output", metavar="TOKENS", rich_help_panel=_LOAD, help="Output length of the batch.")
]
Horizon = Annotated[
    Text,
    typer.Option(
        "--horizon",
        metavar="TIME",
        rich_help_panel=_RUN,
        help="Stop then, and count what is left as unfinished. [when all is done]",
    ),
]
Warmup = Annotated[
    Text,
    typer.Option(
        "--warmup", metavar="TIME", rich_help_panel=_RUN, help="Leave earlier arrivals out of the latencies. [0s]"
    ),
]
Seed = Annotated[Text, typer.Option("--seed", metavar="N", rich_help_panel=_RUN, help="Root of everything random. [0]")]
Replications = Annotated[
    Text,
    typer.Option(
        "--replications",
        metavar="N",
        rich_help_panel=_RUN,
        help="Run under N seeds from --seed on and give means with 95 % intervals; a fixed trace stays the same, "
        "a synthetic one is drawn anew. [1]",
    ),
]
Jobs = Annotated[
    Text,
    typer.Option("--jobs", metavar="N", rich_help_panel=_RUN, help="Runs of a study at a time; -1: all cores. [1]"),
]
SingleStep = Annotated[
    bool,
    typer.Option(
        "--single-step", rich_help_panel=_RUN, help="Take every iteration singly: slower, to the same result."
    ),
]
ShuffleTies = Annotated[
    Text, typer.Option("--shuffle-ties", metavar="N", hidden=True, help="Scramble the making of same-instant events.")
]
NoBounds = Annotated[
    bool,
    typer.Option(
        "--no-bounds",
        rich_help_panel=_OUT,
        help="Leave out the 90 % intervals of times and throughput, which take two further passes.",
    ),
]
Decisions = Annotated[
    bool, typer.Option("--decisions", rich_help_panel=_OUT, help="Also write every decision: decisions.parquet.")
]
Slo = Annotated[
    Text,
    typer.Option(
        "--slo",
        metavar="LIMITS",
        rich_help_panel=_ACCOUNT,
        help="What users are promised: ttft=1s,tpot=200ms,e2e=30s, or some of these.",
    ),
]
StrictSlo = Annotated[
    bool,
    typer.Option("--strict-slo", rich_help_panel=_ACCOUNT, help="Exit with 3 if no run keeps 90 % of its promises."),
]
Basis = Annotated[
    Text,
    typer.Option(
        "--basis",
        metavar="NAME",
        rich_help_panel=_ACCOUNT,
        help="Carbon of electricity: lifecycle or direct; marginal with --grid. [lifecycle]",
    ),
]
Grid = Annotated[
    Text,
    typer.Option("--grid", metavar="FILE", rich_help_panel=_ACCOUNT, help="Hourly carbon intensity, .csv or .parquet."),
]
GridZone = Annotated[
    Text, typer.Option("--grid-zone", metavar="ZONE", rich_help_panel=_ACCOUNT, help="Zone to read from that file.")
]
Start = Annotated[
    Text,
    typer.Option(
        "--start",
        metavar="TIME",
        rich_help_panel=_ACCOUNT,
        help="Wall clock at t = 0, such as 2023-06-01T00:00:00Z. [the trace's own]",
    ),
]
RepeatYear = Annotated[
    bool,
    typer.Option("--repeat-year", rich_help_panel=_ACCOUNT, help="Repeat the hourly series where it does not reach."),
]
Duty = Annotated[
    Text,
    typer.Option(
        "--duty", metavar="SHARE", rich_help_panel=_ACCOUNT, help="Share of reserved time that looks like the run. [1]"
    ),
]
Between = Annotated[
    Text,
    typer.Option(
        "--between", metavar="STATE", rich_help_panel=_ACCOUNT, help="The hardware in the rest: off or idle. [off]"
    ),
]
Embodied = Annotated[
    Text,
    typer.Option(
        "--embodied",
        metavar="METHOD",
        autocompletion=complete.embodied,
        rich_help_panel=_ACCOUNT,
        help="Embodied carbon of the headline; all methods are reported. [card-lca]",
    ),
]
Allocation = Annotated[
    Text,
    typer.Option(
        "--allocation",
        metavar="NAME",
        autocompletion=complete.allocation,
        rich_help_panel=_ACCOUNT,
        help="How a life's carbon is shared out: linear, remaining, avoidable, ... [linear]",
    ),
]
HostShare = Annotated[
    Text,
    typer.Option(
        "--host-share",
        metavar="RULE",
        rich_help_panel=_ACCOUNT,
        help="Count whole servers, or the share of their slots in use: whole or slots. [whole]",
    ),
]
Draws = Annotated[
    Text,
    typer.Option("--draws", metavar="N", rich_help_panel=_ACCOUNT, help="Draws of what is uncertain. [1000]"),
]
Out = Annotated[
    Text,
    typer.Option(
        "--out",
        metavar="DIR",
        rich_help_panel=_OUT,
        help="Directory of the run or study. [runs/ and a name that is not taken]",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", rich_help_panel=_OUT, help="Replace runs that stand there already.")
]
NoReport = Annotated[bool, typer.Option("--no-report", rich_help_panel=_OUT, help="Write no report.html.")]
Json = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=_OUT, help="Print summary.json, or a list of them, and nothing else."),
]
ListJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=_OUT, help="Print nothing but errors.")]
Config = Annotated[
    Text,
    typer.Option(
        "--config",
        metavar="STUDY.toml",
        rich_help_panel=_RUN,
        help="Take options from a file, under the same names; those given here win.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", rich_help_panel=_RUN, help="List what would run, and stop.")]
