"""`simulate`: from a trace and hardware to latency, energy, cost and carbon."""

from typing import TYPE_CHECKING

import typer

from afterwatt.cli import flags
from afterwatt.studies.config import OPTIONS, Settings, gather

if TYPE_CHECKING:
    from afterwatt.studies.running import Study


def simulate(
    hw: flags.Hw = None,
    model: flags.Model = None,
    precision: flags.Precision = None,
    stack: flags.Stack = None,
    policy: flags.Policy = None,
    site: flags.Site = None,
    trace: flags.Trace = None,
    limit: flags.Limit = None,
    rate: flags.Rate = None,
    users: flags.Users = None,
    think: flags.Think = None,
    requests: flags.Requests = None,
    batch: flags.Batch = None,
    prompt: flags.Prompt = None,
    output: flags.Output = None,
    slo: flags.Slo = None,
    strict_slo: flags.StrictSlo = False,
    basis: flags.Basis = None,
    grid: flags.Grid = None,
    grid_zone: flags.GridZone = None,
    start: flags.Start = None,
    repeat_year: flags.RepeatYear = False,
    duty: flags.Duty = None,
    between: flags.Between = None,
    embodied: flags.Embodied = None,
    allocation: flags.Allocation = None,
    host_share: flags.HostShare = None,
    draws: flags.Draws = None,
    horizon: flags.Horizon = None,
    warmup: flags.Warmup = None,
    seed: flags.Seed = None,
    replications: flags.Replications = None,
    jobs: flags.Jobs = None,
    single_step: flags.SingleStep = False,
    shuffle_ties: flags.ShuffleTies = None,
    config: flags.Config = None,
    dry_run: flags.DryRun = False,
    out: flags.Out = None,
    overwrite: flags.Overwrite = False,
    no_report: flags.NoReport = False,
    no_bounds: flags.NoBounds = False,
    decisions: flags.Decisions = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    version: flags.Version = False,
) -> None:
    """Simulate serving a trace: latency, energy, cost and carbon.

    Several cards, models, precisions, policies or sites are crossed and compared. A first try:

        simulate --hw m40 --hw h100-sxm --slo ttft=1s,tpot=200ms
    """
    words = {name.replace("_", "-"): value for name, value in locals().items()}
    settings = gather({name: value for name, value in words.items() if name in OPTIONS}, config)
    if code := run_command(settings, dry_run):
        raise typer.Exit(code)


def run_command(settings: Settings, dry_run: bool = False) -> int:
    """Run a study, or plan it only, print what came of it, and give the exit code."""
    from afterwatt.cli import output
    from afterwatt.cli.errors import DONE, INFEASIBLE

    if dry_run:
        from afterwatt.studies.plan import plan_study

        output.print_plan(plan_study(settings))
        return DONE
    from afterwatt.cli.watch import watching
    from afterwatt.studies.running import run_study

    with watching(settings.quiet) as watch:
        study = run_study(settings, watch)
    if settings.json:
        output.print_json(study)
    elif not settings.quiet:
        output.print_study(study)
    if settings.strict_slo and not _kept(study):
        output.complain("no run keeps 90 % of what its users were promised")
        return INFEASIBLE
    return DONE


def _kept(study: "Study") -> bool:
    """Tell whether any run keeps its service level."""
    from afterwatt.reports.compare import entries

    return any(entry.meets_slo for entry in entries(study.runs))
