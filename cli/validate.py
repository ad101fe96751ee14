"""`afterwatt validate`: what `simulate` predicts, checked on hardware that is there."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from afterwatt.cli import flags
from afterwatt.cli.extra import needs_engine
from afterwatt.studies.errors import OptionError

if TYPE_CHECKING:
    from afterwatt.engine.model.options import ComputeOptions
    from afterwatt.fidelity.validation.session import Say, Subject
    from afterwatt.policies.config import PolicySet
    from afterwatt.traces.schema import Batch

LOCAL: Final = "local"
OUTSIDE: Final = 4
"""Exit code of a validation in which a stated bound is passed."""

Model = Annotated[str, flags.opt("DIR", "A checkpoint: config.json and safetensors.")]
Hw = Annotated[
    str, flags.opt("DIR", "What `afterwatt calibrate` wrote; where the folder is not there it is made first.")
]
Loads = Annotated[str, flags.opt("PERCENT,...", "Shares of the measured capacity.")]
Repetitions = Annotated[int, flags.opt("N", "Runs of the engine at each load.")]
Requests = Annotated[int, flags.opt("N", "How many of the trace's requests.")]
Shrink = Annotated[float, flags.opt("K", "Divide prompts and outputs by K, so that a small device can take part.")]
Policy = Annotated[str, flags.opt("NAME", "As `simulate` takes it.")]
Slo = Annotated[str | None, flags.opt("LIMITS", "What users are promised, as `simulate` takes it.")]
Rounds = Annotated[int, flags.opt("N", "Of the calibration load between runs.")]
Within = Annotated[float | None, flags.opt("S", "Begin no run that may end later than so many seconds. [no limit]")]
Seed = Annotated[int, flags.opt("N", "Of prompts and synthetic traces.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What was asked for, checked as far as it can be without looking anything up."""

    model: Path
    trace: str | None
    hw: str
    fracs: tuple[float, ...]
    repetitions: int
    requests: int
    shrink: float
    policy: str
    slo: str | None
    device: str
    dtype: str
    threads: int
    rounds: int
    seed: int
    within_s: float
    out: str | None


def validate(
    model: Model,
    trace: flags.Trace = None,
    hw: Hw = LOCAL,
    loads: Loads = "30,60,90,110",
    repetitions: Repetitions = 3,
    requests: Requests = 100,
    shrink: Shrink = 1.0,
    policy: Policy = "chunked",
    slo: Slo = None,
    device: flags.Device = "auto",
    dtype: flags.Dtype = "auto",
    threads: flags.Threads = 1,
    rounds: Rounds = 1,
    seed: Seed = 0,
    within: Within = None,
    out: Annotated[str | None, flags.opt("DIR", "Where results go. [validations/...]")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print validation.json.")] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Run a workload through the engine in real time and through the simulator, and say how far they are apart.

    A first try, on a processor:

        afterwatt model make-random --like llama-2-7b --layers 2 --out tiny
        afterwatt validate --model tiny --shrink 16 --requests 20
    """
    given = dict(locals())
    needs_engine("validate")
    fracs = _fracs(loads)
    for name, value in (("--repetitions", repetitions), ("--requests", requests), ("--rounds", rounds)):
        if value < (2 if name == "--requests" else 1):
            raise OptionError(f"{name} {value} is too few; give at least {2 if name == '--requests' else 1}")
    if trace is not None and not trace.strip():
        raise OptionError(f"--trace {trace!r} names nothing; leave it out for the shipped sample")
    if within is not None and not within > 0.0:
        raise OptionError(f"--within {within:g} is no time; give seconds above 0, or leave it out")
    if not 1.0 <= shrink <= 1e6:
        raise OptionError(f"--shrink {shrink:g} must lie in 1..1,000,000; 1 leaves lengths as they are")
    given |= {"model": Path(model), "fracs": fracs, "within_s": float("inf") if within is None else within}
    wishes = Wishes(**{name: given[name] for name in Wishes.__slots__})
    result, page = _run(wishes, _nothing if quiet or json else _say)
    if json:
        sys.stdout.write((page.parent / "validation.json").read_text(encoding="utf-8"))
    elif not quiet:
        _print(result, page)
    if not result["kept"]:
        raise typer.Exit(OUTSIDE)


def _fracs(loads: str) -> tuple[float, ...]:
    try:
        fracs = tuple(float(word.strip().removesuffix("%")) / 100.0 for word in loads.split(","))
    except ValueError:
        raise OptionError(f"--loads {loads!r} is no list of percentages; write for example 30,60,90,110") from None
    wrong = [frac for frac in fracs if not 0.01 <= frac <= 5.0]
    if wrong:
        raise OptionError(f"--loads {loads!r}: {100 * wrong[0]:g} % must lie in 1..500 % of the measured capacity")
    return fracs


def _run(wishes: Wishes, say: "Say") -> tuple[dict[str, Any], Path]:
    """Validate: (what came of it, its page)."""
    from afterwatt.engine.model.options import TorchComputeFactory
    from afterwatt.engine.runtime.energy.choose import choose_meter
    from afterwatt.engine.runtime.process import WorkerProcess
    from afterwatt.fidelity.validation.session import SessionPlan, validate
    from afterwatt.fidelity.validation.verdict import conclude
    from afterwatt.reports.validation import write_validation_page

    subject = _subject(wishes, say)
    batch, unit, name = _workload(wishes)
    plan = SessionPlan(
        batch,
        unit,
        wishes.fracs,
        wishes.repetitions,
        rounds=wishes.rounds,
        seed=wishes.seed,
        trace=name,
        within_s=wishes.within_s,
    )
    options = _options(wishes, subject, int((batch.prompt_tokens + batch.output_tokens).max()))
    folder = _folder(wishes, name)
    say(f"loading {wishes.model}")
    worker = WorkerProcess(TorchComputeFactory(wishes.model, options), subject.setup)
    try:
        meter = choose_meter(options.device, subject.deployment.pool.device, uuid=worker.info.more.get("uuid")).meter
        found = validate(worker, subject, plan, meter, folder, say)
    finally:
        worker.stop()
    result = conclude(subject, plan, found, folder, shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    return result, write_validation_page(folder)


def _folder(wishes: Wishes, trace: str) -> Path:
    own = f"{wishes.model.resolve().name}-{Path(trace.partition(',')[0]).stem}".replace(":", "-")
    folder = Path(wishes.out) if wishes.out else Path("validations") / own
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise OptionError(f"{folder} cannot be made ({fault.strerror}); choose another --out") from None
    return folder


def _options(wishes: Wishes, subject: "Subject", longest_tokens: int) -> "ComputeOptions":
    from afterwatt.engine.model.devices import find_device
    from afterwatt.engine.model.options import ComputeOptions

    policies = subject.setup.policies
    if policies.preemption == "swap" and policies.kv_blocks is None:
        raise OptionError(
            f"--policy {wishes.policy!r} swaps KV blocks to host memory, where as many are set aside as the cache has; "
            "say how many: kv=512"
        )
    return ComputeOptions(
        device=str(find_device(wishes.device)),
        dtype=wishes.dtype,
        kv_blocks=policies.kv_blocks,
        block_tokens=policies.block_tokens,
        host_blocks=(policies.kv_blocks or 0) if policies.preemption == "swap" else 0,
        threads=wishes.threads,
        max_seqs=policies.max_seqs,
        max_batch_tokens=policies.token_budget,
        warm_tokens=longest_tokens,
    )


def _subject(wishes: Wishes, say: "Say") -> "Subject":
    """Look up the device's calibration, making it first where there is none, and the model's shape."""
    from afterwatt.engine.runtime.process import WorkerSetup
    from afterwatt.fidelity.validation.costs import ProfileCosts
    from afterwatt.fidelity.validation.session import Subject
    from afterwatt.hwprofiles.deployment import parse_deployment
    from afterwatt.hwprofiles.stacks import load_stack
    from afterwatt.modelspecs import load_model
    from afterwatt.policies.slo import NO_PROMISE
    from afterwatt.studies.values import slo

    policies = _policies(wishes.policy)
    folder = Path(wishes.hw)
    if not (folder / "device.toml").exists():
        if wishes.hw != LOCAL:
            raise OptionError(f"--hw {wishes.hw!r} holds no device.toml; name one that `afterwatt calibrate` wrote")
        from afterwatt.cli.calibrate import calibrate

        say("this machine has not been calibrated yet: afterwatt calibrate")
        calibrate(device=wishes.device, out=wishes.hw, threads=wishes.threads, no_disk=True, quiet=True)
    config = wishes.model / "config.json"
    if not config.exists():
        raise OptionError(f"--model {str(wishes.model)!r} has no config.json; name a checkpoint's folder")
    deployment = parse_deployment(str(folder / "device.toml"))
    stack = load_stack(deployment.pool.device, str(folder / "stack.toml"))
    spec = load_model(str(config))
    promised = NO_PROMISE if wishes.slo is None else slo(wishes.slo, "--slo")
    setup = WorkerSetup(policies, costs=ProfileCosts(deployment, spec, stack), slo=promised)
    return Subject(deployment, spec, stack, setup, deployment.pool.device.name)


def _policies(said: str) -> "PolicySet":
    """Read a policy; no placement that the engine would not run."""
    from afterwatt.policies.config import RESIDENT, parse_policies

    policies = parse_policies(said)
    if policies.weights != RESIDENT:  # the simulator would move weights that the engine here holds
        raise OptionError(
            f"--policy {said!r} places weights by {policies.weights}; validate runs the engine with all "
            "weights on the device, so that the two would run different things; leave that word out, and run a "
            "prepared model with `afterwatt generate --policy`"
        )
    return policies


def _workload(wishes: Wishes) -> tuple["Batch", int | None, str]:
    """Open the trace's first requests: (lengths and times, tokens per prefix block, its name)."""
    import dataclasses

    import numpy as np

    from afterwatt.studies.workloads import trace_address
    from afterwatt.traces import open_trace

    address, shrink = trace_address(wishes.trace), wishes.shrink
    opened = open_trace(address, seed=wishes.seed, requests=wishes.requests)
    batch = opened.head(wishes.requests)
    if len(batch) < 2 or batch.arrival_s[-1] <= batch.arrival_s[0]:
        raise OptionError(f"{address} holds fewer than two requests at different times; a load needs a rate")

    def divided(tokens: np.ndarray) -> np.ndarray:
        return np.maximum(1, np.rint(tokens / shrink)).astype(np.int64)

    name = Path(address.partition("?")[0]).name
    unit = opened.info.prefix_block_tokens if opened.info.has_prefixes and shrink == 1.0 else None
    batch = dataclasses.replace(
        batch,
        arrival_s=batch.arrival_s - batch.arrival_s[0],
        prompt_tokens=divided(batch.prompt_tokens),
        output_tokens=divided(batch.output_tokens),
        prefixes=batch.prefixes if unit else None,
    )
    return batch, unit, name if shrink == 1.0 else f"{name}, lengths divided by {shrink:g}"


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")


def _nothing(_: str) -> None:
    pass


def _print(result: dict[str, Any], page: Path) -> None:
    from afterwatt.cli.tables import Column, print_table
    from afterwatt.reports.validation import drift_sentence, text_of

    for table in text_of(result):
        columns = [Column(table.head[0], folds=False), *(Column(head, right=True) for head in table.head[1:])]
        print_table(columns, table.rows, title=table.caption)
        sys.stdout.write("\n")
    sys.stdout.write(f"{drift_sentence(result['drift'])}\n{page}\n")
