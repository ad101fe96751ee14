"""Work over rate: how long an iteration takes.

The seconds of `hwprofiles.step`, quantised. Matrix products depend on nothing but the number of tokens, so they may
have any form; attention is linear in what grows from one iteration to the next.

Time is an integer count of picoseconds. Every coefficient is rounded once, when it is made; all later sums are exact,
so that a stride of iterations takes exactly as long as its iterations one by one.
"""

from collections.abc import Mapping, Sequence
from math import expm1

from mypy_extensions import mypyc_attr

from afterwatt.hwprofiles.kernels import diagonal_pairs, tile_rows
from afterwatt.hwprofiles.residence import stage_kinds
from afterwatt.hwprofiles.serving import Serving
from afterwatt.hwprofiles.step import StepModel, count_mixers
from afterwatt.modelspecs.layers import FULL, STATE, WINDOW, LayerKind
from afterwatt.modelspecs.padding import padded_shape, padded_until
from afterwatt.modelspecs.work import windowed_pairs

PS_PER_S = 1_000_000_000_000
Seen = tuple[int, int, int] | None
"""What else the time of a plan's decoding sequences depends on; see `TimeModel.step`."""
LASTING = 1 << 60
"""More iterations than anybody plans."""


@mypyc_attr(allow_interpreted_subclasses=True)
class TimeModel:
    """Seconds per iteration of one pipeline stage of a replica, in picoseconds.

    Args:
        serving: what is computed, and where.
        stage: which of the replica's pipeline stages; the last one holds the LM head.
        kinds: layers of the stage that its GPUs compute; None: all.
    """

    def __init__(self, serving: Serving, stage: int = 0, kinds: Mapping[LayerKind, int] | None = None) -> None:
        pool, stack = serving.pool, serving.stack
        self._step = step = StepModel(serving, kinds)
        self.rates = step.rates
        self._kinds = kinds = stage_kinds(serving.model, pool.pp, stage) if kinds is None else kinds
        layers, windowed, states = (count_mixers(kinds, mixer) for mixer in (FULL, WINDOW, STATE))
        launched = sum(n * ((kind.mixer is not None) + (kind.network is not None)) for kind, n in kinds.items()) / 2.0
        self._has_head = stage == pool.pp - 1
        self._tokens_ps: dict[int, int] = {}
        self._emit_ps: dict[int, tuple[int, int]] = {}
        self._decode_ps: dict[int, tuple[int, int, int]] = {}
        self._piece_ps: dict[int, tuple[int, int]] = {}
        attention, costs = step.attention, step.attention.costs
        self._entry_ps = _ps(layers * costs.entry_s)
        self._pair_ps = _ps(layers * costs.pair_s)
        state_s = states * step.state.sequence_s if step.state is not None else 0.0
        attending = layers + windowed
        self._sequence_ps = _ps(attending * costs.sequence_s + state_s)
        self._past_ps = _ps(layers * attention.past_s)
        self._prompt_token_ps = _ps(attending * costs.prompt_token_s)
        self._decode_entry_ps = _ps(layers * attention.decode_entry_s)
        self._least_rows = round(stack.mixed_query_rows)
        self._beside_sequence_ps = _ps(attending * attention.beside_sequence_s + state_s)
        self._beside_entry_ps = _ps(layers * attention.beside_entry_s)
        self._window = step.window if windowed else None
        self._pads, self._max_context = stack.decode_shape == "padded", serving.model.max_context
        self._window_decode_ps = _ps(windowed * attention.decode_entry_s)
        self._window_beside_ps = _ps(windowed * attention.beside_entry_s)
        self._window_entry_ps = _ps(windowed * costs.entry_s)
        self._window_pair_ps = _ps(windowed * costs.pair_s)
        self._launch_ps = _ps(launched * stack.launch_s)
        self._prompt_launch_ps = _ps(launched * stack.prompt_launch_s)
        self._step_ps = _ps(stack.step_overhead_s)
        self._sequence_overhead_s = stack.sequence_overhead_s
        self._wake_ps, self._wake_after_ps = _ps(stack.wake_s), _ps(stack.wake_after_s)

    def step(
        self,
        decoding: int,
        context_tokens: int,
        chunks: Sequence[tuple[object, int, int]],
        emits: int,
        iterations: int,
        seen: Seen = None,
    ) -> tuple[int, int, int]:
        """Return the time of a plan's iterations.

        Args:
            decoding: sequences that decode.
            context_tokens: KV entries that they read in the first iteration; grows by `decoding` each time.
            chunks: (whose, tokens, past tokens) of each prompt piece; past grows by tokens each time.
            emits: sequences that need logits.
            iterations: how many are planned.
            seen: where layers have a window, (entries of `context_tokens` within it, their growth, for how many
                iterations); where the software pads batches that only decode, (the longest context, ...); None: as
                if all sequences were of the same length.

        Returns:
            (first, slope, n): iteration k takes first + slope * k picoseconds, for n of the iterations. Where the
            device, with ever more to read, comes to need longer than the host takes to launch its kernels, or a
            sequence comes to fill a window, the law ends before and the caller asks again.
        """
        if not chunks:
            known = self._decode_ps.get(decoding)
            if known is None:
                if self._window is not None:  # and so is never known
                    return self._windowed_step(decoding, context_tokens, chunks, emits, iterations, seen)
                if self._pads:
                    return self._padded_step(decoding, context_tokens, iterations, seen)
                law = self._base_ps(decoding, decoding * self._sequence_ps, decoding, self._launch_ps)
                known = self._decode_ps[decoding] = (*law, self._decode_entry_ps * decoding)
            base, spare, slope = known
            grown = self._decode_entry_ps * context_tokens
        elif self._window is not None:
            return self._windowed_step(decoding, context_tokens, chunks, emits, iterations, seen)
        else:
            tokens = decoding
            grown = self._beside_entry_ps * context_tokens
            slope = self._beside_entry_ps * decoding
            pieces = self._piece_ps
            for _, size, past in chunks:
                tokens += size
                piece = pieces.get(size)
                if piece is None:
                    piece = pieces[size] = self._prompt_piece_ps(size)
                before, itself = piece
                grown += before * past + itself
                slope += before * size
            blocks_ps = decoding * self._beside_sequence_ps + len(chunks) * self._sequence_ps
            base, spare = self._base_ps(tokens, blocks_ps, emits, self._prompt_launch_ps)
        if grown >= spare:
            return base + grown, slope, iterations
        return base + spare, 0, steps_to_crossing(grown - spare, slope, iterations)

    def wake_ps(self, rest_ps: int) -> int:
        """Return what an iteration after a rest takes longer: wake_s (1 - exp(-rest / wake_after_s)).

        A law of this project, from a processor whose neighbours take its cache (docs/time-model.md).
        """
        return round(self._wake_ps * -expm1(-rest_ps / self._wake_after_ps)) if self._wake_ps else 0

    def _base_ps(self, tokens: int, blocks_ps: int, emits: int, launch_ps: int) -> tuple[int, int]:
        """Return the time of an iteration but for what attention reads and multiplies, and how much of that hides.

        What the host needs to launch the kernels runs beside the device: until the device has that much to do, an
        iteration takes as long as launching does.
        """
        device = self._tokens_ps.get(tokens)
        if device is None:
            device = self._tokens_ps[tokens] = _ps(self._step.layers_s(tokens, self._kinds))
        emit = self._emit_ps.get(emits)
        if emit is None:
            emit = self._emit_ps[emits] = self._emitting_ps(emits)
        device += blocks_ps + emit[0]
        return device + emit[1] + self._step_ps, launch_ps - device if launch_ps > device else 0

    def _emitting_ps(self, emits: int) -> tuple[int, int]:
        """Return the time of the LM head and of the bookkeeping for the sequences that produce a token."""
        if not (emits and self._has_head):
            return 0, 0
        return _ps(self._step.head.seconds(emits)), _ps(emits * self._sequence_overhead_s)

    def _padded_step(self, decoding: int, context_tokens: int, iterations: int, seen: Seen) -> tuple[int, int, int]:
        """Return the same of sequences that only decode, in a batch that is padded where its lengths allow it.

        Context of the padded shape neither grows nor differs; what a sequence costs the host it does not cost twice.
        """
        longest = -(-context_tokens // decoding) if seen is None else seen[0]
        iterations = min(iterations, padded_until(decoding, longest, context_tokens))
        shape = padded_shape(decoding, longest, context_tokens)
        rows, slope, entries = decoding, self._decode_entry_ps * decoding, context_tokens
        if shape is not None:
            rows, slope, entries = shape[0], 0, shape[0] * min(shape[1], self._max_context)
        base, spare = self._base_ps(rows, rows * self._sequence_ps, rows, self._launch_ps)
        base -= _ps((rows - decoding) * self._sequence_overhead_s) if self._has_head else 0
        grown = self._decode_entry_ps * entries
        if grown >= spare:
            return base + grown, slope, iterations
        return base + spare, 0, steps_to_crossing(grown - spare, slope, iterations)

    def _prompt_piece_ps(self, size: int) -> tuple[int, int]:
        """Return the time of a prompt piece's attention: (for each token before it, for itself)."""
        rows = tile_rows(size, self._least_rows)
        itself = self._pair_ps * int(diagonal_pairs(size)) + (self._entry_ps + self._prompt_token_ps) * size
        return self._pair_ps * rows + self._entry_ps + self._past_ps, itself

    def _windowed_step(
        self,
        decoding: int,
        context_tokens: int,
        chunks: Sequence[tuple[object, int, int]],
        emits: int,
        iterations: int,
        seen: Seen,
    ) -> tuple[int, int, int]:
        """Return the same where layers have a window: those that see everything, and those that do not."""
        assert self._window is not None
        each = self._beside_entry_ps if chunks else self._decode_entry_ps
        tokens, grown, slope = decoding, each * context_tokens, each * decoding
        for _, size, past in chunks:
            before, itself = self._prompt_piece_ps(size)
            tokens, grown, slope = tokens + size, grown + before * past + itself, slope + before * size
        if chunks:
            blocks_ps = decoding * self._beside_sequence_ps + len(chunks) * self._sequence_ps
            base, spare = self._base_ps(tokens, blocks_ps, emits, self._prompt_launch_ps)
        else:
            base, spare = self._base_ps(decoding, decoding * self._sequence_ps, decoding, self._launch_ps)
        if seen is None:
            seen = evenly_seen(decoding, context_tokens, self._window)
        more, steeper, lasting = self._windowed_ps(seen, chunks, self._window)
        grown, slope, iterations = grown + more, slope + steeper, min(iterations, lasting)
        if grown >= spare:
            return base + grown, slope, iterations
        return base + spare, 0, steps_to_crossing(grown - spare, slope, iterations)

    def _windowed_ps(
        self, seen: tuple[int, int, int], chunks: Sequence[tuple[object, int, int]], window: int
    ) -> tuple[int, int, int]:
        """Return what layers with a window read and multiply: (first, slope, for how many iterations)."""
        entries, growing, lasting = seen
        each = self._window_beside_ps if chunks else self._window_decode_ps
        grown, slope = each * entries, each * growing
        for _, size, past in chunks:
            rows = tile_rows(size, self._least_rows)
            inside = windowed_pairs(size, 0, window)
            before = windowed_pairs(size, past, window) - inside
            masked = int(diagonal_pairs(size)) - size * (size + 1) // 2  # of the blocks on the diagonal
            grown += self._window_pair_ps * (rows * before // size + inside + masked)
            grown += self._window_entry_ps * (min(past, window - 1) + size)
            if past + size <= window:
                slope += size * (self._window_pair_ps * rows + self._window_entry_ps)
                lasting = min(lasting, (window - past) // size)
            elif past + 1 < window:
                lasting = 1
        return grown, slope, lasting

    def hop_ps(self, tokens: int) -> int:
        """Return the time to hand this many tokens' activations to the next pipeline stage."""
        return _ps(self._step.hop_s(tokens))


def _ps(seconds: float) -> int:
    return round(seconds * PS_PER_S)


def steps_to_crossing(gap: int, slope: int, most: int) -> int:
    """Return for how many k = 0, 1, ... the sign of gap + slope * k stays what it is at 0 (0 counts as positive)."""
    if gap >= 0:
        return most if slope >= 0 else min(most, gap // -slope + 1)
    return most if slope <= 0 else min(most, -(gap // slope))


def evenly_seen(decoding: int, context_tokens: int, window: int) -> tuple[int, int, int]:
    """Return what decoding sequences of the same length see through a window; see `TimeModel.step`.

    Args:
        decoding: sequences that decode.
        context_tokens: KV entries of all of them.
        window: that each sees.
    """
    most = decoding * window
    if context_tokens >= most:
        return most, 0, LASTING
    return context_tokens, decoding, (most - context_tokens) // decoding + 1
