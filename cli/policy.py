"""`afterwatt policy`: the policies that --policy names."""

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from afterwatt.cli import flags
from afterwatt.cli.output import print_json
from afterwatt.compiled import HOME

_PREEMPTION: Final = {
    "recompute": "What lacks memory gives up its KV cache and computes it anew.",
    "swap": "What lacks memory moves its KV cache to the host's memory and back.",
}
_SAID_AS: Final = {
    "split": "split=20/50",
    "layers": "layers=N",
    "experts": "experts=cpu",
    "m2cache": "m2cache+density=10",
}
_SIZES: Final = {
    "budget=N": ("token_budget", "Most tokens per iteration."),
    "seqs=N": ("max_seqs", "Most sequences at a time."),
    "block=N": ("block_tokens", "Tokens per block of the KV cache."),
    "kv=N": ("kv_blocks", "Blocks of the KV cache per replica, as an engine's log states them."),
    "utilisation=N": ("utilisation_frac", "Share of a GPU's memory for weights, activations and the cache."),
    "watermark=N": ("watermark_frac", "Share of these blocks that admission leaves free, in percent."),
    "queue=N": ("max_queue", "Most requests waiting per replica; further ones are turned away."),
}


def list_policies(json: flags.ListJson = False) -> None:
    """List the words that --policy joins by +."""
    rows = policies()
    if json:
        print_json([dict(zip(("question", "word", "default", "about"), row, strict=True)) for row in rows])
        return
    from afterwatt.cli.tables import Column, print_table

    cells = [[question, f"{word} *" if usual else word, about] for question, word, usual, about in rows]
    columns = [Column("decides", folds=False), Column("word", folds=False), Column("")]
    note = "* the default. One word per question, joined by +: --policy prefill-first+swap+seqs=64"
    print_table(columns, cells, note=note)


def policies() -> list[tuple[str, str, bool, str]]:
    """Give every word with the question it answers, whether it is the default, and what it does."""
    from afterwatt.policies.batching import BATCHING
    from afterwatt.policies.config import PREEMPTION, PolicySet
    from afterwatt.policies.routing import ROUTING
    from afterwatt.policies.weights import WEIGHTS

    usual = PolicySet()
    rows = [("which sequences run", name, name == usual.batching, _first_line(made)) for name, made in BATCHING.items()]
    rows += [("where a request goes", name, name == usual.routing, _first_line(made)) for name, made in ROUTING.items()]
    rows += [("whose memory is taken", name, name == usual.preemption, _PREEMPTION[name]) for name in PREEMPTION]
    for name, made in WEIGHTS.items():
        rows.append(("where weights lie", _SAID_AS.get(name, name), name == usual.weights, _first_line(made)))
    rows.append(("shared prefixes", "no-prefix", not usual.share_prefixes, "Compute them anew for every request."))
    for word, (field, about) in _SIZES.items():
        rows.append(("sizes", word, False, f"{about} [{_usual_size(word, getattr(usual, field))}]"))
    return rows


def _usual_size(word: str, value: float | None) -> str:
    if value is None:
        return {"kv=N": "what fits", "utilisation=N": "as the stack has it"}.get(word, "no bound")
    return f"{100.0 * value:g}" if word == "watermark=N" else f"{value:g}"


def _first_line(made: Callable[..., Any]) -> str:
    return (inspect.getdoc(made) or _written(made)).partition("\n")[0]


def _written(made: Callable[..., Any]) -> str:
    """Read a class's docstring in its source: compiled classes carry none."""
    source = HOME.joinpath(*made.__module__.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8")
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == made.__name__]
    return (ast.get_docstring(classes[0]) or "") if classes else ""


COMMANDS: Final[tuple[str, Mapping[str, Callable[..., Any]]]] = (
    "Look at the policies there are.",
    {"list": list_policies},
)
