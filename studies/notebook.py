"""Studies in a notebook: words in, pandas frames out. `import afterwatt as aw` shows these as `aw.simulate` and so on.

Every function takes the words of a study file as keywords (`aw.simulate(hw="m40", limit=100)`): see `StudyConfig`.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from afterwatt.studies.config import StudyConfig, gather
from afterwatt.studies.errors import OptionError
from afterwatt.studies.evaluate import NAMES, Outcome, evaluate, frame
from afterwatt.studies.plan import StudyPlan, plan_study
from afterwatt.studies.running import Study, run_study

if TYPE_CHECKING:
    import pandas as pd

    from afterwatt.policies.views import BatchPolicy, RoutePolicy
    from afterwatt.sim.config import RunConfig

    Batching = BatchPolicy | type[BatchPolicy] | None
    Routing = RoutePolicy | type[RoutePolicy] | None
Function = TypeVar("Function", bound=Callable[..., Any])
_WRITTEN: Final = ("out", "overwrite", "no_report", "jobs", "strict_slo", "json", "quiet")
"""Words of what is written and printed, of which a result in memory knows nothing."""


def _takes_words(*without: str) -> Callable[[Function], Function]:
    """Let a function show its words as parameters, so that a notebook completes them."""

    def told(function: Function) -> Function:
        own = [one for one in inspect.signature(function).parameters.values() if one.name != "words"]
        words = [
            inspect.Parameter(field.alias or name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
            for name, field in StudyConfig.model_fields.items()
            if (field.alias or name) not in without
        ]
        function.__signature__ = inspect.Signature([*own, *words])  # type: ignore[attr-defined]
        return function

    return told


@_takes_words(*_WRITTEN)
def simulate(batching: "Batching" = None, routing: "Routing" = None, **words: Any) -> Outcome:  # noqa: ANN401 - of many kinds
    """Simulate one run and keep what came of it in memory.

    Args:
        batching: a policy of your own in place of the one that `policy` names: an object, of which each replica gets
            a copy, or its class.
        routing: the same for where requests go.
        **words: of a study, one of each: `hw="m40"`, `trace="chat.parquet"`, `slo="ttft=1s"`.

    Returns:
        Frames: `.summary` (one row), `.requests`, `.timeline`, `.draws`.

    Raises:
        OptionError: a word is unknown or wrong, or says more than one run.
        Infeasible: the model does not fit.
        HardwareError, ModelError, PolicyError, TraceError: what a word names is not there, or is wrong.
    """
    plan = _planned(words)
    if not plan.single:
        raise OptionError(
            f"simulate makes one run and these words say {_runs(plan)}; compare takes as many as you like"
        )
    _refuse_infeasible(plan)
    return evaluate(_with_own(plan.jobs[0].config, batching, routing))


@_takes_words(*_WRITTEN)
def compare(batching: "Batching" = None, routing: "Routing" = None, **words: Any) -> "pd.DataFrame":  # noqa: ANN401 - as above
    """Simulate every combination of some lists of words and give their summaries, one row per run.

    Args:
        batching: as for `simulate`, in every combination.
        routing: the same.
        **words: of a study; lists make a cross product, `hw=["m40", "h100-sxm"]`.

    Returns:
        What ran (hw, model, precision, stack, policy, site, seed), then every figure under its name with its unit.
        NaN is unknown. A combination that does not fit is a row that says why under `infeasible`, all else unknown.

    Raises:
        OptionError: a word is unknown or wrong.
        Infeasible: none of them fits.
        HardwareError, ModelError, PolicyError, TraceError: what a word names is not there, or is wrong.
    """
    plan = _planned(words)
    _refuse_infeasible(plan)
    rows: list[dict[str, Any]] = []
    for cell in plan.cells:
        if cell.refusal is not None:
            names = {name: getattr(cell.names, name) for name in NAMES if name != "seed"}
            rows.append({**names, "infeasible": cell.refusal})
        rows += [evaluate(_with_own(job.config, batching, routing)).row() for job in cell.jobs]
    return frame(rows)


@_takes_words()
def study(file: str | Path | None = None, **words: Any) -> Study:  # noqa: ANN401 - as above
    """Run a study into directories, as the command `simulate` does; what stands there already is kept.

    Args:
        file: a study file; words win over it.
        **words: of a study, such as `out="runs/cards"`.

    Returns:
        `.path`, `.runs` (open run directories), `.report`, `.kept`.

    Raises:
        OptionError, HardwareError, ModelError, PolicyError, TraceError, ReportError: bad input.
        Infeasible: no combination fits.
    """
    return run_study(gather(words, file))


def _with_own(config: "RunConfig", batching: "Batching", routing: "Routing") -> "RunConfig":
    """Put policies of one's own into a run."""
    named = config.policies
    policies = replace(
        named,
        batching=named.batching if batching is None else batching,
        routing=named.routing if routing is None else routing,
    )
    return replace(config, policies=policies)


def _planned(words: dict[str, Any]) -> StudyPlan:
    for word in _WRITTEN:
        if word in words:
            raise OptionError(f"{word} says what is written or printed, and nothing is; use study for directories")
    return plan_study(StudyConfig(**words))


def _runs(plan: StudyPlan) -> str:
    return f"{len(plan.cells)} combinations" if len(plan.seeds) == 1 else f"{len(plan.cells) * len(plan.seeds)} runs"


def _refuse_infeasible(plan: StudyPlan) -> None:
    from afterwatt.sim.errors import Infeasible

    if not plan.jobs:
        raise Infeasible(str(plan.cells[0].refusal))
