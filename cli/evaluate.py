"""`afterwatt evaluate`: what precision and sparsity do to a model's answers, measured on a text."""

import hashlib
import json as json_lib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afterwatt.cli import flags
from afterwatt.cli.extra import needs_engine
from afterwatt.studies.errors import OptionError

if TYPE_CHECKING:
    from afterwatt.engine.model.compute import LoadedModel
    from afterwatt.engine.runtime.compute import Ints


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face directory.")],
    text: Annotated[str, flags.opt("FILE", "What is predicted.")],
    policy: Annotated[
        list[str] | None,
        flags.opt("NAME", "int8, 25/25/50, fp16:50+rank=gate, ...; repeat it.", show_default=False),
    ] = None,
    calibrate: Annotated[
        str | None, flags.opt("FILE", "Another text, by which units are ranked where a policy has shares.")
    ] = None,
    window: Annotated[int, flags.opt("N", "Tokens that are read at once.")] = 256,
    limit: Annotated[int | None, flags.opt("N", "Only the first N tokens of the text.", min=2)] = None,
    device: flags.Device = "auto",
    dtype: flags.Dtype = "auto",
    threads: flags.Threads = 1,
    out: Annotated[str | None, flags.opt("FILE", "Write the figures there too, as JSON.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure perplexity, divergence from full precision and next-token agreement, uniform int8 and int4 always beside.

    Shares go by rank, the most important units first: 25/25/50 are percent in the model's own format, in int8 and in
    int4; fp16:50 leaves half of them out. rank=static ranks by importance on the text of --calibrate, rank=gate for
    each token by the size of its gate.
    """
    needs_engine("evaluate")
    found = _measured(Path(model), (text, calibrate), list(policy or ()), (window, limit), (device, dtype, threads))
    content = json_lib.dumps(found, indent=1) + "\n"
    if out is not None:
        from afterwatt.reports.files import write_whole

        write_whole(Path(out), content)
    if json:
        sys.stdout.write(content)
    else:
        _print(found)


def _measured(
    folder: Path,
    texts: tuple[str, str | None],
    names: list[str],
    sizes: tuple[int, int | None],
    where: tuple[str, str, int],
) -> dict[str, Any]:
    """Measure each policy; a text is a file's name, sizes are (window, limit), where is (device, dtype, threads)."""
    from afterwatt.engine.model.compute import load_model
    from afterwatt.engine.model.evaluation import Sample, evaluate_policies
    from afterwatt.engine.model.options import ComputeOptions

    window, limit = sizes
    loaded = load_model(folder, ComputeOptions(device=where[0], dtype=where[1], kv_blocks=1, threads=where[2]))
    ids, digest = tokens_of(folder, texts[0], loaded)
    ranked = None if texts[1] is None else Sample(*tokens_of(folder, texts[1], loaded))
    found = evaluate_policies(loaded, Sample(ids[:limit], digest), names, window, ranked)
    return {"text": Path(texts[0]).name, **found}


def tokens_of(folder: Path, name: str, loaded: "LoadedModel") -> "tuple[Ints, str]":
    """Return a file's text as a model's tokens, and its SHA-256.

    Args:
        folder: the model's.
        name: of the file.
        loaded: the model.

    Raises:
        OptionError: no such text, or nothing says how the model's tokens spell text.
    """
    from afterwatt.engine.runtime.text import text_of
    from afterwatt.modelspecs.files import read_small

    try:
        content = read_small(Path(name))
    except (OSError, UnicodeDecodeError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "it is no UTF-8"
        raise OptionError(f"cannot read {name}: {why}; give a text file") from None
    spelling = text_of(folder, loaded.config.spec.vocab)
    if spelling is None:
        raise OptionError(f"{folder} has no tokenizer.json, and its tokens are no bytes; a text cannot be read")
    return spelling.encode(content), hashlib.sha256(content.encode()).hexdigest()


def _print(found: dict[str, Any]) -> None:
    from afterwatt.cli.tables import Column, print_table

    heads = ("bits per weight", "perplexity", "KL, nats", "±", "same next token")
    rows = [
        [
            row["policy"],
            f"{row['bits_per_weight']:.2f}",
            f"{row['perplexity']:.4f}",
            f"{row['kl_nats']:.5f}",
            "" if row["kl_error_nats"] is None else f"{row['kl_error_nats']:.5f}",
            f"{row['agreement_frac']:.1%}",
        ]
        for row in found["policies"]
    ]
    title = f"{found['model']} · {found['tokens']:,} tokens of {found['text']} · its networks only"
    print_table([Column("policy", folds=False), *(Column(head, right=True) for head in heads)], rows, title=title)
