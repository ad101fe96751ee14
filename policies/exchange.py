"""What a scheduler has put into host memory, and the moves there and back that no plan has taken along yet."""

from afterwatt.policies.plans import NO_MOVES, Move


class Exchange:
    """Room for KV blocks in host memory, and the moves between it and the device.

    Attributes:
        free_blocks: that nobody's KV lies in, or is on its way to or from.
        moves: decided on, for the next plan.
    """

    __slots__ = ("free_blocks", "moves")

    def __init__(self, blocks: int) -> None:
        self.free_blocks = blocks
        self.moves: list[Move] = []

    def put(self, owner: int, blocks: int) -> bool:
        """Move a sequence's KV out; False if there is no room for it."""
        for move in self.moves:
            if move.owner == owner and move.dst == "hbm":  # no plan has brought it back yet: it is still there
                self.moves.remove(move)
                return True
        if blocks > self.free_blocks:
            return False
        self.free_blocks -= blocks
        self.moves.append(Move("kv", owner, blocks, "hbm", "dram"))
        return True

    def fetch(self, owner: int, blocks: int) -> None:
        """Move a sequence's KV back; its room is free when a plan has taken the move along."""
        self.moves.append(Move("kv", owner, blocks, "dram", "hbm"))

    def take(self) -> tuple[tuple[Move, ...], bool]:
        """Hand over the moves, those that make room on the device first: (the moves, whether there are such)."""
        if not self.moves:
            return NO_MOVES, False
        leaving = [move for move in self.moves if move.src == "hbm"]
        coming = [move for move in self.moves if move.src != "hbm"]
        self.free_blocks += sum([move.units for move in coming])
        self.moves = []
        return (*leaving, *coming), bool(leaving)
