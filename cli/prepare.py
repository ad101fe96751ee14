"""`afterwatt prepare`: checksums of a checkpoint, so that damage is found when it is loaded."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def prepare(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="A Hugging Face directory: config.json, *.safetensors.")
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; hold the files against the manifest that is there.")
    ] = False,
) -> None:
    """Write afterwatt-manifest.json beside a checkpoint: sizes and checksums of its files and tensors."""
    from afterwatt.engine.runtime.manifest import read_manifest, verify, write_manifest

    folder = Path(directory)
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
