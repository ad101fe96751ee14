"""How long a kernel takes by its shape: matrix products, attention and all-reduces.

The formulas of `hwprofiles.step`, and the very ones that kernel tables are fitted to. They take floats or arrays.
A kernel is a latency and work over rate (Hockney and Curington, Parallel Computing 1989): small ones reach a fraction
of a large one's rate because of it. Where arithmetic and traffic overlap, the longer of the two (Williams et al.,
Roofline, CACM 2009), its corner rounded by a p-norm, since neither is perfectly hidden behind the other.
"""

from typing import Final, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from afterwatt.modelspecs.spec import experts_touched

Floats = NDArray[np.float64]
Real = TypeVar("Real", float, Floats)

QUERY_TILE = 128
"""Queries that a prompt kernel multiplies with a context at once, needed or not (FlashAttention's block of rows)."""
QUERIES_PER_BLOCK = 64
"""Queries of a thread block on the diagonal of a prompt, half of whose keys are masked."""


class GemmRates(NamedTuple):
    """What matrix products of one kind of weights reach on one GPU.

    Attributes:
        bytes_per_s: traffic to and from memory.
        flops_per_s: arithmetic.
        dequant_s: time to scale one weight back; 0 where weights are multiplied as they are stored.
        latency_s: time of a product without work.
        sharpness: p of the p-norm that joins traffic, arithmetic and scaling; infinity is the sharp roofline.
        narrow: the vectors are quantised to a byte per element first, by a kernel of its own.
        few_rows: products of so many rows or fewer run in a kernel of their own: a processor's libraries stream the
            matrix past a few vectors, and repack it for more.
        few_bytes_per_s: traffic in those.
        vector_rows: quantised products of so many rows or fewer multiply in vector instructions, row by row.
        vector_s: time of one weight in those, for each row after the first.
        unpack_rows: quantised matrices are unpacked by a kernel of their own from so many rows on, and multiplied wide.
        wide_flops_per_s, wide_bytes: arithmetic and bytes per weight in those.
    """

    bytes_per_s: float
    flops_per_s: float
    dequant_s: float
    latency_s: float
    sharpness: float
    narrow: bool = False
    few_rows: float = 0.0
    few_bytes_per_s: float = 1.0
    vector_rows: float = 0.0
    vector_s: float = 0.0
    unpack_rows: float = float("inf")
    wide_flops_per_s: float = 1.0
    wide_bytes: float = 2.0


class AttentionRates(NamedTuple):
    """What attention kernels reach on one GPU.

    Attributes:
        bytes_per_s, flops_per_s: traffic and arithmetic.
        latency_s: time of a kernel without work.
        block_s: time of one thread block, spread over the device: a sequence's KV head, or `QUERIES_PER_BLOCK` of
            a prompt's queries of one head.
        score_bytes: moved per head and query-key pair where scores pass through memory (no flash attention).
    """

    bytes_per_s: float
    flops_per_s: float
    latency_s: float
    block_s: float
    score_bytes: float = 0.0


class AttentionCosts(NamedTuple):
    """Seconds of one layer's attention on one GPU: latency + the sum of counts times these.

    Attributes:
        latency_s: of the kernel.
        sequence_s: per sequence.
        token_s: per query token (its query is read, its output written).
        prompt_token_s: per query token of a prompt, on top of that (its share of thread blocks).
        entry_s: per entry of the KV cache that is read.
        pair_s: per query-key pair.
    """

    latency_s: float
    sequence_s: float
    token_s: float
    prompt_token_s: float
    entry_s: float
    pair_s: float


def gemm_s(
    rows: Real,
    inputs: Real,
    outputs: Real,
    rates: GemmRates,
    weight_bytes: float = 2.0,
    activation_bytes: float = 2.0,
    copies: Real | float = 1.0,
) -> Real:
    """Return the seconds of a matrix product: `rows` vectors of `inputs` through a matrix of inputs x outputs.

    Args:
        rows: vectors (tokens), summed over the copies.
        inputs: side of the matrix that the vectors enter by.
        outputs: side that they leave by; both on this GPU.
        rates: what such products reach.
        weight_bytes: per stored weight, scales included.
        activation_bytes: per element of the vectors.
        copies: matrices of that shape that are read (experts touched), each row passing through one of them.
    """
    weights = inputs * outputs * copies
    input_bytes = 1.0 if rates.narrow else activation_bytes
    passing = rows * (inputs * input_bytes + outputs * activation_bytes)
    memory_s = (weights * weight_bytes + passing) / rates.bytes_per_s
    if rates.few_rows:
        memory_s = _where(rows <= rates.few_rows, memory_s * rates.bytes_per_s / rates.few_bytes_per_s, memory_s)
    compute_s = 2.0 * rows * inputs * outputs / rates.flops_per_s
    product_s = rates.latency_s + smooth_max(memory_s, compute_s, weights * rates.dequant_s, rates.sharpness)
    if rates.vector_rows:
        more_s = (rows - copies) * inputs * outputs * rates.vector_s
        product_s = _where(rows <= rates.vector_rows * copies, product_s + more_s, product_s)
    if rates.narrow:
        product_s = product_s + rates.latency_s + rows * inputs * (activation_bytes + 1.0) / rates.bytes_per_s
    if rates.unpack_rows == float("inf"):
        return product_s
    unpacked_s = rates.latency_s + weights * (weight_bytes + rates.wide_bytes) / rates.bytes_per_s
    wide_s = (weights * rates.wide_bytes + rows * (inputs + outputs) * activation_bytes) / rates.bytes_per_s
    compute_s = 2.0 * rows * inputs * outputs / rates.wide_flops_per_s
    wide_s = unpacked_s + rates.latency_s + smooth_max(wide_s, compute_s, 0.0 * compute_s, rates.sharpness)
    return _where(rows >= rates.unpack_rows * copies, wide_s, product_s)


def experts_s(
    tokens: Real,
    hidden: Real,
    width: Real,
    experts: Real,
    active: Real,
    rates: GemmRates,
    weight_bytes: float = 2.0,
    activation_bytes: float = 2.0,
    inner: float = 2.0,
    ways: int = 1,
    imbalance: float = 1.0,
) -> Real:
    """Return the seconds of a layer's experts: two grouped products over the tokens that each expert is sent.

    Args:
        tokens: in the iteration.
        hidden: width of the residual stream.
        width: of one expert's feed-forward network on this GPU.
        experts: in the layer; read as far as tokens, each sent to a uniformly drawn set, touch them.
        active: experts that a token is sent to.
        rates: what such products reach.
        weight_bytes: per stored weight, scales included.
        activation_bytes: per element of the vectors.
        inner: matrices into the network: 2 for gated ones, else 1.
        ways: GPUs that the experts are spread over; the time is that of the busiest.
        imbalance: its load over the mean.
    """
    touched = experts_touched(experts, active, tokens)
    rows = tokens * active
    if ways > 1:
        touched = np.minimum(touched * imbalance, experts) / ways
        rows = rows * imbalance / ways
    into = gemm_s(rows, hidden, inner * width, rates, weight_bytes, activation_bytes, touched)
    return into + gemm_s(rows, width, hidden, rates, weight_bytes, activation_bytes, touched)


def _where(here: bool | NDArray[np.bool_], one: Real, other: Real) -> Real:
    if isinstance(here, bool):
        return one if here else other
    return cast("Real", np.where(here, one, other)[()])


def smooth_max(one: Real, two: Real, three: Real, sharpness: float) -> Real:
    """Return the p-norm of three times: at least the longest, at most their sum (p >= 1)."""
    return (one**sharpness + two**sharpness + three**sharpness) ** (1.0 / sharpness)  # type: ignore[no-any-return]


def attention_costs(
    heads: float,
    kv_heads: float,
    head_dim: float,
    rates: AttentionRates,
    kv_bytes: float = 2.0,
    activation_bytes: float = 2.0,
) -> AttentionCosts:
    """Return what one layer's attention costs per thing counted, on a GPU that holds so many heads.

    Traffic and arithmetic add up: a kernel alternates between loading and multiplying, and measured times lie nearer
    to the sum than to the larger. Per entry one key and one value of each KV head is read; a pair costs a product with
    each (Narayanan et al., arXiv:2104.04473, appendix).
    """
    return AttentionCosts(
        latency_s=rates.latency_s,
        sequence_s=kv_heads * rates.block_s,
        token_s=2.0 * heads * head_dim * activation_bytes / rates.bytes_per_s,
        prompt_token_s=heads / QUERIES_PER_BLOCK * rates.block_s,
        entry_s=2.0 * kv_heads * head_dim * kv_bytes / rates.bytes_per_s,
        pair_s=4.0 * heads * head_dim / rates.flops_per_s + heads * rates.score_bytes / rates.bytes_per_s,
    )


def decode_attention_s(costs: AttentionCosts, sequences: Real, entries: Real) -> Real:
    """Return the seconds of one layer's attention of decoding sequences over their KV entries (a sum over all)."""
    return costs.latency_s + (costs.sequence_s + costs.token_s) * sequences + decode_entry_s(costs) * entries


def prompt_attention_s(
    costs: AttentionCosts, sequences: Real, queries: Real, past: Real, least_rows: float = 1.0
) -> Real:
    """Return the seconds of one layer's attention of prompt pieces, each of so many queries after so many entries."""
    a_piece = costs.sequence_s + (costs.token_s + costs.prompt_token_s) * queries + costs.entry_s * (past + queries)
    return costs.latency_s + sequences * (a_piece + costs.pair_s * prompt_pairs(queries, past, least_rows))


def tile_rows(queries: int, least_rows: int = 1) -> int:
    """Return the rows of queries that a kernel multiplies with the tokens before a prompt piece of so many.

    Whole tiles of `QUERY_TILE`; for fewer, one tile of a power of two, as far as the engine has those.

    Args:
        queries: new tokens, at least one.
        least_rows: rows of the engine's smallest tile.
    """
    if queries < QUERY_TILE:
        return max(1 << (queries - 1).bit_length(), least_rows)
    return -(-queries // QUERY_TILE) * QUERY_TILE


def diagonal_pairs(queries: Real) -> Real:
    """Return the query-key pairs that a kernel multiplies within a prompt piece: the causal ones and half a block."""
    return queries * (queries + QUERIES_PER_BLOCK) / 2.0


_SMALL_TILES: Final = np.array([0.0, *(float(tile_rows(queries)) for queries in range(1, QUERY_TILE))])


def prompt_pairs(queries: Real, past: Real, least_rows: float = 1.0) -> Real:
    """Return the query-key pairs that a kernel multiplies for a prompt piece: tiles are multiplied whole.

    Args:
        queries: new tokens.
        past: tokens before them.
        least_rows: rows of the engine's smallest tile.
    """
    small = np.maximum(_SMALL_TILES[np.minimum(queries, QUERY_TILE - 1.0).astype(np.int64)], least_rows)
    rows = np.where(queries < QUERY_TILE, small, -(-queries // QUERY_TILE) * QUERY_TILE)
    return cast("Real", rows * past) + diagonal_pairs(queries)


def decode_entry_s(costs: AttentionCosts, query_rows: float = 1.0) -> float:
    """Return seconds per KV entry of a decoding sequence: read once, multiplied with one query per head.

    Args:
        costs: per thing counted.
        query_rows: rows that the one query fills. Kernels for decoding take it as it is; kernels for prompts, which
            some engines put all sequences through when there is a prompt among them, multiply their smallest tile.
    """
    return costs.entry_s + query_rows * costs.pair_s


def beside_sequence_s(rates: AttentionRates, heads: float, kv_heads: float, query_rows: float) -> float:
    """Return seconds per decoding sequence beside prompts, but for its entries: the thread blocks that it takes.

    One for each KV head as when it decodes alone, or, in a kernel that gives its query more rows, up to one per head.
    """
    return min(heads, kv_heads * query_rows) * rates.block_s


def all_reduce_s(
    payload_bytes: Real,
    devices: int,
    bytes_per_s: float,
    latency_s: float,
    bulk_bytes: float = float("inf"),
    bulk_bytes_per_s: float = 1.0,
) -> Real:
    """Return the seconds of an all-reduce: each device moves 2 (p-1)/p of the payload in 2 ceil(log2 p) hops.

    The bandwidth term is the lower bound that rings reach (Patarasuk and Yuan, JPDC 2009), the latency term that of
    trees (Sanders et al., Parallel Computing 2009); NCCL picks by size.

    Args:
        payload_bytes: on each device.
        devices: that take part.
        bytes_per_s: of a link.
        latency_s: of a hop.
        bulk_bytes: what the payload has beyond this goes at `bulk_bytes_per_s`.
        bulk_bytes_per_s: rate of the rest.
    """
    if devices == 1:
        return payload_bytes * 0.0
    hops = 2 * (devices - 1).bit_length()
    first = np.minimum(payload_bytes, bulk_bytes)
    passing = first / bytes_per_s + (payload_bytes - first) / bulk_bytes_per_s
    return hops * latency_s + 2.0 * (devices - 1) / devices * passing  # type: ignore[no-any-return]
