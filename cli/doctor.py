"""`afterwatt doctor`: what this machine can do for the engine, and what stands in its way."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from afterwatt.cli import flags
from afterwatt.cli.output import print_json
from afterwatt.studies.errors import OptionError


def doctor(
    folder: Annotated[str, typer.Option("--dir", metavar="DIR", help="The folder whose disk is looked at.")] = ".",
    json: flags.ListJson = False,
) -> None:
    """Look at python, torch, GPUs, energy meters, memory and disk, and say what to do about what is amiss."""
    import dataclasses

    from afterwatt.engine.runtime.doctor import examine

    if not Path(folder).is_dir():
        raise OptionError(f"--dir {folder!r} is no folder; give one on the disk to be looked at")
    facts = None
    if importlib.util.find_spec("torch") is not None:
        from afterwatt.engine.model.about import torch_facts

        facts = torch_facts()
    findings = examine(Path(folder), facts)
    if json:
        print_json([dataclasses.asdict(one) for one in findings])
        return
    from afterwatt.cli.tables import Column, print_table

    columns = [Column("", folds=False), Column("", folds=False), Column("found"), Column("what to do")]
    print_table(columns, [[one.topic, one.status, one.said, one.way_out] for one in findings])
