"""Sequences whose KV lies elsewhere or is on its way there, and the moves that no plan has taken along yet."""

from collections import deque
from collections.abc import Sequence as Items
from typing import Generic

from afterwatt.policies.errors import PolicyError
from afterwatt.policies.kv import KvPool
from afterwatt.policies.plans import NO_MOVES, Move, Tier
from afterwatt.policies.sequence import S


class Exchange(Generic[S]):
    """Who waits for room with its KV in host memory or with another worker, and room for KV in host memory.

    Attributes:
        away: those who wait, in order.
        free_blocks: of host memory, that nobody's KV lies in, or is on its way to or from.
        moves: decided on, for the next plan.
        leaving: id -> (prefix blocks shared, KV blocks of its own) of those that go on elsewhere, and whose KV still
            lies here.
    """

    __slots__ = ("_at", "_pool", "away", "free_blocks", "leaving", "moves")

    def __init__(self, pool: KvPool, blocks: int) -> None:
        """Start with nobody away, and so many blocks of host memory."""
        self._pool = pool
        self.leaving: dict[int, tuple[Items[int], int]] = {}
        self.away: deque[S] = deque()
        self.free_blocks = blocks
        self.moves: list[Move] = []
        self._at: dict[int, Tier] = {}  # whose KV lies elsewhere -> where

    def put(self, seq: S, blocks: int) -> bool:
        """Move a sequence's KV out to host memory; False if there is no room for it."""
        for move in self.moves:
            if move.owner == seq.seq_id and move.dst == "hbm":  # no plan has brought it here yet: it is still there
                self.moves.remove(move)
                self._at[seq.seq_id] = move.src
                self.away.append(seq)
                return True
        if blocks > self.free_blocks:
            return False
        self.keep(seq, "dram", blocks)
        self.moves.append(Move("kv", seq.seq_id, blocks, "hbm", "dram"))
        return True

    def keep(self, seq: S, at: Tier, blocks: int) -> None:
        """Note that a sequence's KV, of so many blocks, lies in a tier, and that it waits for room.

        Raises:
            PolicyError: it lies here already, or host memory does not hold so much.
        """
        if at == "hbm" or (at == "dram" and blocks > self.free_blocks):
            raise PolicyError(
                f"the KV of sequence {seq.seq_id} ({blocks} blocks) is said to lie in {at}, where {self.free_blocks} "
                "blocks of host memory are free; name the tier that it is to come from"
            )
        if at == "dram":
            self.free_blocks -= blocks
        self._at[seq.seq_id] = at
        self.away.append(seq)

    def fetch(self, blocks: int) -> S:
        """Move the KV of the first that waits here; its room in host memory is free when a plan has taken the move."""
        seq = self.away.popleft()
        self.moves.append(Move("kv", seq.seq_id, blocks, self._at.pop(seq.seq_id), "hbm"))
        return seq

    def take(self) -> tuple[tuple[Move, ...], bool]:
        """Hand over the moves, those that make room on the device first: (the moves, whether there are such)."""
        if not self.moves:
            return NO_MOVES, False
        leaving = [move for move in self.moves if move.src == "hbm"]
        coming = [move for move in self.moves if move.src != "hbm"]
        self.free_blocks += sum([move.units for move in coming if move.src == "dram"])
        self.moves = []
        return (*leaving, *coming), bool(leaving)

    def leave(self, seq: S) -> None:
        """Keep the KV of a sequence that goes on elsewhere, until it is there."""
        own_blocks = self._pool.blocks_for(seq.kv_tokens) - seq.held * self._pool.unit_blocks
        self.leaving[seq.seq_id] = seq.prefix[: seq.held], own_blocks
        seq.held = 0

    def release_after(self, seq: S, move: Move) -> None:
        """Give back the KV blocks of a sequence that has left; see `Scheduler.release_after`."""
        keys, own_blocks = self.leaving.get(seq.seq_id, ((), 0))
        blocks = len(keys) * self._pool.unit_blocks + own_blocks
        if not blocks or (move.owner, move.units) != (seq.seq_id, blocks):
            raise PolicyError(
                f"a move of {move.units} KV blocks of sequence {move.owner} does not end the stay of the {blocks} that "
                f"sequence {seq.seq_id} has left behind; name the move that has carried them"
            )
        del self.leaving[seq.seq_id]
        self._pool.release(keys, own_blocks, seq.seq_id)
