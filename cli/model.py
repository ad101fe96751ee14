"""`afterwatt model`: model shapes, what follows from them, and random checkpoints of them."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from afterwatt.cli import complete, flags
from afterwatt.cli.extra import needs_engine
from afterwatt.cli.output import print_json


def list_models(json: flags.ListJson = False) -> None:
    """List the models that ship."""
    from afterwatt.modelspecs import describe_catalogue

    found = describe_catalogue()
    if json:
        print_json([row._asdict() for row in found])
        return
    from afterwatt.cli.tables import Column, print_table
    from afterwatt.reports.format import quantity

    rows = [
        [
            row.name,
            f"{row.params / 1e9:,.2f}",
            f"{row.active_params / 1e9:,.2f}",
            f"{row.max_context_tokens:,}",
            quantity(row.kv_bytes_per_token, "B"),
            quantity(row.fp16_bytes, "B"),
        ]
        for row in found
    ]
    heads = ("parameters, G", "active, G", "context", "KV per token", "in fp16")
    note = "Any Hugging Face config.json of the Llama, Mistral, Mixtral, Qwen2, OPT or Falcon families works too."
    print_table([Column("model", folds=False), *(Column(head, right=True) for head in heads)], rows, note=note)


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", autocompletion=complete.model, help="A name of `model list`, a .toml, or a config.json."
        ),
    ],
    precision: Annotated[
        list[str] | None,
        flags.opt(
            "NAME", "Count weights in this format, q4_k_m say; may be repeated.", autocompletion=complete.precision
        ),
    ] = None,
    json: flags.ListJson = False,
) -> None:
    """Print a model's shape, counts, bytes and work, with sources."""
    from afterwatt.modelspecs import describe_model, load_model

    rows = describe_model(name, precision or ())
    if json:
        print_json([row._asdict() for row in rows])
        return
    from afterwatt.cli.tables import Column, Footnotes, print_table

    sources = Footnotes()
    cells = [[row.label, row.value, sources.cite(row.source)] for row in rows]
    columns = [Column("", folds=False), Column("value"), Column("from", folds=False)]
    print_table(columns, cells, title=load_model(name).name, sources=sources.texts)


_Size = Annotated[int | None, typer.Option(min=1, metavar="N", show_default=False)]


def make_random(
    like: Annotated[
        str, flags.opt("NAME", "Whose shape; of the Llama, Mistral or Qwen2 family.", autocompletion=complete.model)
    ],
    out: Annotated[str, flags.opt("DIR", "Directory to make.")],
    layers: _Size = None,
    hidden: _Size = None,
    heads: _Size = None,
    kv_heads: _Size = None,
    head_dim: _Size = None,
    ffn: _Size = None,
    vocab: _Size = None,
    max_context: _Size = None,
    dtype: Annotated[str, flags.opt("NAME", "fp32, fp16 or bf16.")] = "fp16",
    seed: Annotated[int, flags.opt("N", "Of its values.")] = 0,
    shard_mb: Annotated[int, flags.opt("N", "Size of a shard.", min=1)] = 512,
) -> None:
    """Write a random checkpoint of a model's shape, for work on speed; sizes that are not given stay the model's.

    With --hidden alone, heads and FFN shrink along.
    """
    needs_engine("model make-random")
    from afterwatt.engine.model.random_checkpoint import shrunk, write_random
    from afterwatt.modelspecs import load_model

    sizes = {"layers": layers, "hidden": hidden, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    spec = shrunk(load_model(like), **sizes, ffn=ffn, vocab=vocab, max_context=max_context)
    write_random(spec, Path(out), dtype, seed, shard_mb * 1_000_000)
    sys.stdout.write(f"{out}: {spec.params:,} random parameters in {dtype}\n")


COMMANDS: Final[tuple[str, Mapping[str, Callable[..., Any]]]] = (
    "Look at models, or make one up.",
    {"list": list_models, "show": show, "make-random": make_random},
)
