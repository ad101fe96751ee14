"""The options of `simulate`: one row each, from which its signature is made.

Numbers and times stay text until `studies.config` reads them. What an option means and takes is said there too; the
text stands here because help must not import it.
"""

import inspect
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from afterwatt.cli import complete

_CROSS: Final = "What runs (repeat an option to compare)"


class Flag(NamedTuple):
    """An option.

    Attributes:
        section: of the help; those of the first may be repeated.
        help: what it means, with its default in brackets.
        metavar: what it takes; nothing for a switch.
        complete: gives the words that the shell may complete.
    """

    section: str
    help: str
    metavar: str = ""
    complete: Callable[[str], list[str]] | None = None


FLAGS: Final[Mapping[str, Flag]] = {
    name: Flag(**{**said, "complete": getattr(complete, said.get("complete", ""), None)})
    for name, said in tomllib.loads(Path(__file__).with_name("flags.toml").read_text(encoding="utf-8")).items()
}
"""Name -> option, in the order of the help; all but `config` and `dry-run` are words of a study."""
_HIDDEN: Final = ("shuffle-ties",)
_SHORT: Final = {"quiet": "-q"}


def option(name: str) -> Any:  # noqa: ANN401 - typer's own type is none it shows
    """Make typer's option of a row."""
    flag = FLAGS[name]
    return typer.Option(
        f"--{name}",
        *([_SHORT[name]] if name in _SHORT else []),
        metavar=flag.metavar or None,
        autocompletion=flag.complete,
        rich_help_panel=flag.section,
        help=flag.help,
        hidden=name in _HIDDEN,
    )


def opt(metavar: str, text: str, **more: Any) -> Any:  # noqa: ANN401 - typer's own type is none it shows
    """Make an option that is called like its parameter: what it takes, what it means, and what else typer knows of."""
    return typer.Option(metavar=metavar, help=text, **more)


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"afterwatt {importlib.metadata.version('afterwatt')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
]
ListJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Trace = Annotated[str | None, option("trace")]
Quiet = Annotated[bool, option("quiet")]
Device = Annotated[str, opt("NAME", "auto, cpu, cuda or cuda:1.")]
Dtype = Annotated[str, opt("NAME", "auto, fp32, fp16 or bf16.")]
Threads = Annotated[int, opt("N", "Of the processor, for its own work.")]


def signature() -> inspect.Signature:
    """Give the signature of a function that takes every option, for typer to read."""
    kinds = {
        name: bool if not flag.metavar else list[str] | None if flag.section == _CROSS else str | None
        for name, flag in FLAGS.items()
    }
    annotations = {name: Annotated[kind, option(name)] for name, kind in kinds.items()} | {"version": Version}
    return inspect.Signature(
        [
            inspect.Parameter(
                name.replace("-", "_"),
                inspect.Parameter.KEYWORD_ONLY,
                default=None if kinds.get(name, bool) is not bool else False,
                annotation=annotation,
            )
            for name, annotation in annotations.items()
        ]
    )
