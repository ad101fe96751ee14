"""The page of a measurement of `benchmarks/gpu.sh`, from its JSON. Needs the standard library only."""

from typing import Any

Part = dict[str, Any]


def page_of(found: Part) -> str:
    """Write a measurement as Markdown."""
    lines = [f"# {found['device']}, {found['date_utc']} UTC", ""]
    lines += [
        f"Measured by `benchmarks/gpu.sh` in {found['took_s']:.0f} s; torch {found['torch']}, CUDA {found['cuda']}.",
        "",
    ]
    lines += [_state_line(found)] if found.get("state") else []
    for name, title, write in (
        ("parity", "Parity with the processor", _parity_lines),
        ("decode", "Decoding", _decode_lines),
        ("energy", "Energy", _energy_lines),
        ("validate", "Predicted and measured", _validate_lines),
    ):
        part = found.get(name, {"left_out": "not begun"})
        why = part.get("failed") or part.get("left_out")
        lines += [f"## {title}", "", *(write(part) if why is None else [f"Not measured: {why}"]), ""]
    return "\n".join(lines)


def _state_line(found: Part) -> str:
    said = ", ".join(f"{name} {value}" for name, value in found["state"].items() if value is not None)
    return f"The card said at the start: {said}.\n"


def _parity_lines(part: Part) -> list[str]:
    rows = [f"| {family} | {value:.2e} |" for family, value in part["largest_difference"].items()]
    narrow = f"In bf16 the largest difference is {part['bf16_of_largest_logit']:.2%} of the largest logit."
    target = f"1e-4, and {part['bf16_target']:.0%} in bf16"
    return ["| family | largest difference of a logit |", "| --- | --- |", *rows, "", narrow, _said(part, target)]


def _decode_lines(part: Part) -> list[str]:
    rows = [
        f"| {one['batch']} | {1e3 * one['step_s']:.2f} | {one['tokens_per_s']:.0f} | {('no', 'yes')[one['graph']]} |"
        for one in part["batches"]
    ]
    what = f"{part['model']} with {part['layers']} layers, {part['dtype']}, {part['context_tokens']} tokens of context"
    return [
        f"{what}: batch 1 reaches {part['share']:.1%} of the best measured bandwidth. {_said(part, '60 %')}",
        "",
        "| batch | ms per iteration | tokens/s | as a graph |",
        "| --- | --- | --- | --- |",
        *rows,
    ]


def _energy_lines(part: Part) -> list[str]:
    def known(value: float | None, digits: int) -> str:
        return "unknown" if value is None else f"{value:.{digits}f}"

    rows = [
        f"| {one['batch'] or 'idle'} | {known(one['watts'], 1)} | {known(one['j_per_token'], 3)} | {one['method']} |"
        for one in part["runs"]
    ]
    return ["| batch | W | J/token | method |", "| --- | --- | --- | --- |", *rows]


def _validate_lines(part: Part) -> list[str]:
    found = part["validation"]
    rows = []
    for load in found["loads"]:
        for one in load["figures"]:
            if one["error_frac"] is not None:
                cells = f"{one['predicted']:.4g} | {one['measured']:.4g} | {100 * one['error_frac']:+.1f} %"
                rows.append(f"| {load['frac']:.0%} | {one['name']} | {cells} |")
    head = ["| load | figure | predicted | measured | error |", "| --- | --- | --- | --- | --- |"]
    return [f"{found['model']}, {found['requests']} requests of {found['trace']}.", "", *head, *rows]


def _said(part: Part, target: str) -> str:
    return f"Target {target}: {'met' if part['met'] else 'missed'}."
