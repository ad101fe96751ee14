"""`afterwatt model`: model shapes and what follows from them."""

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from cli import complete, flags


def list_models(json: flags.ListJson = False) -> None:
    """List the models that ship."""
    from modelspecs import describe_catalogue

    found = describe_catalogue()
    if json:
        from reports.schema import to_json

        sys.stdout.write(to_json([row._asdict() for row in found]))
        return
    from cli.tables import Column, print_table
    from reports.format import quantity

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
    json: flags.ListJson = False,
) -> None:
    """Print a model's shape, counts, bytes and work, with sources."""
    from modelspecs import describe_model, load_model

    rows = describe_model(name)
    if json:
        from reports.schema import to_json

        sys.stdout.write(to_json([row._asdict() for row in rows]))
        return
    from cli.tables import Column, Footnotes, print_table

    sources = Footnotes()
    cells = [[row.label, row.value, sources.cite(row.source)] for row in rows]
    columns = [Column("", folds=False), Column("value"), Column("from", folds=False)]
    print_table(columns, cells, title=load_model(name).name, sources=sources.texts)


COMMANDS: Final[tuple[str, Mapping[str, Callable[..., Any]]]] = ("Look at models.", {"list": list_models, "show": show})
