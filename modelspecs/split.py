"""Over how many GPUs the layers of a model can be split.

Whole heads, whole columns and whole groups of quantisation go to a GPU.

Rules: vLLM 0.11 (`ModelConfig.verify_with_parallel_config`, `QKVParallelLinear`, `divide`; gptq and fp8 refuse a part
that is no multiple of a group).
"""

from collections.abc import Iterator
from typing import Final

from afterwatt.modelspecs.layers import WINDOW
from afterwatt.modelspecs.precision import Precision
from afterwatt.modelspecs.spec import ModelSpec

_MOST: Final = 64


def split_obstacles(spec: ModelSpec, precision: Precision, ways: int, whole_experts: bool = False) -> tuple[str, ...]:
    """Say what of a model cannot be shared out evenly; nothing if all can.

    Args:
        spec: the model.
        precision: of its weights.
        ways: GPUs that share a layer.
        whole_experts: experts are spread over GPUs and not split.
    """
    return tuple(_obstacles(spec, precision, ways, whole_experts)) if ways > 1 else ()


def spread_obstacle(spec: ModelSpec, ways: int) -> str | None:
    """Say why whole experts cannot be spread evenly over so many GPUs; None if they can, or stay where they are."""
    if ways == 1:
        return None
    if spec.experts == 1:
        return "it has no experts"
    return f"{spec.experts} experts are no multiple of {ways}" if spec.experts % ways else None


def spreads_that_work(spec: ModelSpec) -> tuple[int, ...]:
    """Return the numbers of GPUs that whole experts can be spread over evenly, up to 64."""
    return tuple(ways for ways in range(1, _MOST + 1) if spread_obstacle(spec, ways) is None)


def splits_that_work(spec: ModelSpec, precision: Precision) -> tuple[int, ...]:
    """Return the numbers of GPUs that can share a layer, up to 64."""
    return tuple(ways for ways in range(1, _MOST + 1) if not split_obstacles(spec, precision, ways))


def _obstacles(spec: ModelSpec, precision: Precision, ways: int, whole_experts: bool) -> Iterator[str]:
    if spec.heads % ways:
        yield f"{spec.heads} attention heads are no multiple of {ways}"
    elif spec.latent is None and max(spec.kv_heads, ways) % min(spec.kv_heads, ways):
        yield f"{spec.kv_heads} key/value heads neither divide {ways} nor are a multiple of it"
    kinds = {kind.network for kind in spec.kinds()}
    widths = {"dense": spec.dense_width} if whole_experts else {"experts": spec.ffn, "dense": spec.dense_width}
    named = [
        (f"the width {width:,} of the feed-forward network", width) for kind, width in widths.items() if kind in kinds
    ]
    if spec.state is not None:
        named.append((f"the width {spec.state.width:,} of {spec.state.kind}", spec.state.width))
    if spec.shared_ffn:
        named.append((f"the width {spec.shared_ffn:,} of the shared expert", spec.shared_ffn))
    attends = any(kind.mixer in ("full", WINDOW) for kind in spec.kinds())
    if attends and spec.latent is None and precision.attention_bits is None and not spec.heads % ways:
        yield from _parts(
            f"the width {spec.heads * spec.head_dim:,} of attention", spec.heads * spec.head_dim, precision, ways
        )
    for what, width in named:
        yield from _parts(what, width, precision, ways)


def _parts(what: str, width: int, precision: Precision, ways: int) -> Iterator[str]:
    if width % ways:
        yield f"{what} is no multiple of {ways}"
    elif precision.group is not None and width % precision.group == 0 and (width // ways) % precision.group:
        yield f"{what} in groups of {precision.group} ({precision.name}) does not split over {ways}"
