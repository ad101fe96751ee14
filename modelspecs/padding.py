"""Shapes that an engine pads batches of decoding sequences to, so that a GPU can replay each as one graph.

Engine and simulator ask here, so that what the one computes is what the other prices.
"""

from typing import Final

SMALLEST_TOKENS: Final = 128
"""Context that the shortest sequences are padded to: below it, fewer graphs are worth more than fewer reads."""


def padded_size(value: int, smallest: int) -> int:
    """Return the first size of a ladder that is no less than a value.

    Args:
        value: what is to be held.
        smallest: the ladder's first size; then come one and a half times it, its double, three times it and so on, so
            that neighbours differ by a half at most.
    """
    size = smallest
    while size < value:
        half = size + size // 2
        if half >= value:
            return half
        size *= 2
    return size


def ladder(smallest: int, last: int) -> list[int]:
    """Return the sizes of a ladder up to one that is its last, whether or not it is a size of its own."""
    sizes = [min(smallest, last)]
    while sizes[-1] < last:
        sizes.append(min(padded_size(sizes[-1] + 1, smallest), last))
    return sizes


def padded_shape(sequences: int, longest_tokens: int, held_tokens: int) -> tuple[int, int] | None:
    """Return (sequences, context of each) that a batch is padded to; None where it runs as it is.

    All sequences of a padded batch are as long as its longest. That reads at most 9/4 of what they hold, as both sizes
    may be half as large again; a batch of less equal lengths is not padded. What is shorter than `SMALLEST_TOKENS`
    counts as that.

    Args:
        sequences: that decode.
        longest_tokens: KV entries of the longest one, its new one included.
        held_tokens: KV entries of all of them.
    """
    size, width = padded_size(sequences, 1), padded_size(longest_tokens, SMALLEST_TOKENS)
    fits = 4 * size * width <= 9 * max(held_tokens, sequences * SMALLEST_TOKENS)
    return (size, width) if fits else None


def padded_until(sequences: int, longest_tokens: int, held_tokens: int) -> int:
    """Return for how many iterations, in which each sequence grows by a token, `padded_shape` gives the same answer.

    Args:
        sequences: as in `padded_shape`.
        longest_tokens: in the first iteration.
        held_tokens: in the first iteration.
    """
    size, width = padded_size(sequences, 1), padded_size(longest_tokens, SMALLEST_TOKENS)
    within = width - longest_tokens + 1
    lacking = 4 * size * width - 9 * held_tokens
    if lacking <= 0 or padded_shape(sequences, longest_tokens, held_tokens) is not None:
        return within
    return min(within, -(-lacking // (9 * sequences)))
