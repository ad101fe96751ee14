"""`afterwatt prepare`: a modular checkpoint made of a checkpoint, or checksums written beside it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from afterwatt.cli import flags
from afterwatt.cli.errors import INTERRUPTED
from afterwatt.cli.extra import needs_engine
from afterwatt.studies.errors import OptionError

if TYPE_CHECKING:
    from afterwatt.engine.runtime.preparing import PreparePlan, Ranking

_WINDOW_TOKENS: Final = 512


def prepare(
    directory: Annotated[
        str, typer.Argument(metavar="MODEL", help="A Hugging Face directory: config.json, *.safetensors.")
    ],
    out: Annotated[
        str | None,
        typer.Argument(
            metavar="OUT", help="Directory to make: the model with its networks as bundles.", show_default=""
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        flags.opt("NAME", "Of bundles beside the model's own format; repeat it. [int8 and int4]", show_default=False),
    ] = None,
    calibrate: Annotated[
        str | None,
        flags.opt("TEXT", "A text on which is measured which neurons matter; they are stored most important first."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what time and disk it takes, and stop.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; hold the files against the manifest that is there.")
    ] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Make a modular checkpoint OUT, whose neurons or experts are read in pieces; without OUT, write checksums.

    What is interrupted goes on where it stopped, by the same command. Without OUT, afterwatt-manifest.json is written
    beside the checkpoint: sizes and checksums of its files and tensors.
    """
    if out is None:
        if precision or calibrate or dry_run:
            raise OptionError(
                "--precision, --calibrate and --dry-run are of a modular checkpoint; name the OUT to make"
            )
        _checksums(Path(directory), check)
        return
    if check:
        raise OptionError("--check holds a checkpoint against its manifest; leave OUT away")
    from afterwatt.engine.runtime.preparing import check_room, plan_prepare

    plan = plan_prepare(Path(directory), Path(out), precision or ("int8", "int4"))
    if calibrate is not None and not dry_run:
        ranking = _measured(Path(directory), calibrate)
        plan = plan_prepare(Path(directory), Path(out), precision or ("int8", "int4"), ranking)
    check_room(plan)
    _write(plan, dry_run, quiet)


def _checksums(folder: Path, check: bool) -> None:
    from afterwatt.engine.runtime.manifest import read_manifest, verify, write_manifest

    if check:
        verify(folder)
    else:
        write_manifest(folder)
    records = read_manifest(folder) or {}
    files = len(records)
    tensors = sum(len(record.tensors) for record in records.values())
    total = sum(record.size_bytes for record in records.values())
    done = "as they were" if check else "noted down"
    sys.stdout.write(f"{folder}: {files} files, {tensors} tensors, {total / 1e9:.3g} GB, {done}\n")


def _measured(folder: Path, text: str) -> "Ranking":
    """Measure on a text which units matter."""
    needs_engine("prepare --calibrate")
    from afterwatt.cli.evaluate import tokens_of
    from afterwatt.engine.model.compute import load_model
    from afterwatt.engine.model.options import ComputeOptions
    from afterwatt.engine.model.quality import importance

    loaded = load_model(folder, ComputeOptions(kv_blocks=1))
    ids, digest = tokens_of(folder, text, loaded)
    window = min(_WINDOW_TOKENS, loaded.config.spec.max_context)
    return importance(loaded, ids, window, {"text_sha256": digest, "tokens": len(ids), "window_tokens": window})


def _write(plan: "PreparePlan", dry_run: bool, quiet: bool) -> None:
    """Say what it takes, and do it under a progress bar."""
    from afterwatt.engine.runtime.preparing import estimate_s, prepare

    sizes = plan.bundles
    if not quiet or dry_run:
        parts = ", ".join(
            f"{name} {sizes.layers * sizes.section_bytes(name) / 1e9:.3g} GB" for name in sizes.precisions
        )
        sys.stdout.write(
            f"{plan.out}: {sizes.layers} layers of {sizes.units:,} {'neurons' if sizes.neurons == 1 else 'experts'}; "
            f"{plan.total_bytes / 1e9:.3g} GB ({parts}), about {estimate_s(plan):,.0f} s\n"
        )
    if dry_run:
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
            task = progress.add_task("layers", total=sizes.layers)
            prepare(plan, lambda done: progress.update(task, completed=done))
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; what is done lies in {plan.unfinished}, the same command goes on from there\n")
        raise SystemExit(INTERRUPTED) from None
