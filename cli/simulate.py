"""`simulate`: from a trace and hardware to latency, energy, cost and carbon."""

from typing import TYPE_CHECKING, Any

import typer

from afterwatt.cli import flags

if TYPE_CHECKING:
    from afterwatt.studies.config import StudyConfig
    from afterwatt.studies.running import Study


def simulate(**words: Any) -> None:  # noqa: ANN401 - of many kinds, checked by `studies.config`
    """Simulate serving a trace: latency, energy, cost and carbon.

    Several cards, models, precisions, policies or sites are crossed and compared. A first try:

        simulate --hw m40 --hw h100-sxm --slo ttft=1s,tpot=200ms
    """
    from afterwatt.studies.config import gather

    study_file, dry_run, _ = (words.pop(name) for name in ("config", "dry_run", "version"))
    if code := run_command(gather(words, study_file), dry_run):
        raise typer.Exit(code)


simulate.__signature__ = flags.signature()  # type: ignore[attr-defined]  # typer reads the options from it


def run_command(study: "StudyConfig", dry_run: bool = False) -> int:
    """Run a study, or plan it only, print what came of it, and give the exit code."""
    from afterwatt.cli import output
    from afterwatt.cli.arrow import probe_without_pandas
    from afterwatt.cli.errors import DONE, INFEASIBLE

    probe_without_pandas()

    if dry_run:
        from afterwatt.studies.plan import plan_study

        output.print_plan(plan_study(study))
        return DONE
    from afterwatt.cli.watch import watching
    from afterwatt.studies.running import run_study

    with watching(study.quiet) as watch:
        result = run_study(study, watch=watch, spare_core=True)
    if study.json_output:
        output.print_summaries(result)
    elif not study.quiet:
        output.print_study(result)
    if study.strict_slo and not _kept(result):
        output.complain("no run keeps 90 % of what its users were promised")
        return INFEASIBLE
    return DONE


def _kept(study: "Study") -> bool:
    """Tell whether any run keeps its service level."""
    from afterwatt.reports.entry import entries

    return any(entry.meets_slo for entry in entries(study.runs))
