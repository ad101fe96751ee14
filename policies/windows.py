"""Sequences that decode together where layers see a window only, or keep no more than that."""

from heapq import heappop, heappush

from afterwatt.policies.sequence import FOREVER, DecodeGroup, S
from afterwatt.policies.sizes import Holding


class Marks:
    """A step for each of some sequences, of which the next ones are asked for in order."""

    __slots__ = ("_heap", "_of")

    def __init__(self) -> None:
        self._of: dict[int, int] = {}  # id -> step
        self._heap: list[tuple[int, int]] = []  # with entries of those taken out meanwhile

    def __len__(self) -> int:
        return len(self._of)

    def put(self, seq_id: int, step: int) -> None:
        """Mark a sequence with a step."""
        self._of[seq_id] = step
        heappush(self._heap, (step, seq_id))

    def drop(self, seq_id: int) -> bool:
        """Forget a sequence; say whether it was marked."""
        return self._of.pop(seq_id, None) is not None

    def first(self) -> int:
        """Return the earliest step; one that never comes if there is none."""
        heap = self._heap
        while heap and self._of.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else FOREVER

    def take(self, step: int) -> list[int]:
        """Take out those marked with a step up to this one."""
        taken: list[int] = []
        while self.first() <= step:
            seq_id = heappop(self._heap)[1]
            del self._of[seq_id]
            taken.append(seq_id)
        return taken


class WindowedGroup(DecodeGroup[S]):
    """A decode group that also knows what its members see through a window, and which of their blocks go on growing.

    A stride ends where a member's blocks of layers with a window stop growing: from then on they are used again.
    """

    __slots__ = ("_holding", "_holding_more", "_residues_more", "_seeing_all", "_seeing_sum")

    def __init__(self, block_tokens: int, holding: Holding) -> None:
        super().__init__(block_tokens)
        self._holding = holding
        self._seeing_all = Marks()  # members that see all of theirs, until a step
        self._seeing_sum = 0  # sum over those of (KV tokens - step)
        self._holding_more = Marks()  # members whose blocks behind a window still grow, until a step
        self._residues_more = [0] * block_tokens  # as `_residues`, of those

    def seen(self) -> tuple[int, int, int]:
        """Return (KV entries within the window that the next iteration reads, their growth, for how many iterations).

        The iteration's own new entries are included.
        """
        step, marks, window = self.step, self._seeing_all, self._holding.window_tokens
        for seq_id in marks.take(step):
            self._seeing_sum -= self.members[seq_id].kv_offset
        growing = len(marks)
        full = (len(self.members) - growing) * window
        return self._seeing_sum + growing * (step + 1) + full, growing, marks.first() - step + 1

    def join(self, seq: S) -> None:
        """Let a sequence with complete KV decode what is left of its output."""
        DecodeGroup.join(self, seq)
        offset, step, holding = seq.kv_offset, self.step, self._holding
        sees_until = holding.window_tokens - 1 - offset
        if step < sees_until:
            self._seeing_all.put(seq.seq_id, sees_until)
            self._seeing_sum += offset
        grows_until = (holding.window_blocks - 1) * self._block_tokens + 1 - offset
        if step < grows_until:
            self._holding_more.put(seq.seq_id, grows_until)
            self._residues_more[-offset % self._block_tokens] += 1

    def _take_out(self, seq: S) -> None:
        offset = seq.kv_offset
        DecodeGroup._take_out(self, seq)
        if self._seeing_all.drop(seq.seq_id):
            self._seeing_sum -= offset
        if self._holding_more.drop(seq.seq_id):
            self._residues_more[-offset % self._block_tokens] -= 1

    def stride(self, most: int, blocks: int) -> int:
        """Return how many of the next `most` iterations hold; see `DecodeGroup.stride`."""
        steps = min(most, self._finishes[0][0] - self.step, self._holding_more.first() - self.step)
        per_block = self._holding.full + self._holding.windowed
        if len(self.members) * (steps // self._block_tokens + 1) * per_block <= blocks:
            return steps
        return self.steps_within(blocks, steps)

    def next_blocks(self) -> int:
        """Return the KV blocks that the next iteration takes."""
        place, holding = self.step % self._block_tokens, self._holding
        return holding.full * self._residues[place] + holding.windowed * self._residues_more[place]

    def new_blocks(self, steps: int) -> int:
        """Return the KV blocks that the next iterations take; within a stride."""
        more = self._count(self._residues_more, len(self._holding_more), steps)
        return self._holding.full * DecodeGroup.new_blocks(self, steps) + self._holding.windowed * more

    def _count(self, residues: list[int], members: int, steps: int) -> int:
        size = self._block_tokens
        first = self.step % size
        last = first + steps % size
        around = sum(residues[first:last]) if last <= size else members - sum(residues[last - size : first])
        return steps // size * members + around

    def steps_within(self, blocks: int, most: int) -> int:
        """Return how many of the next `most` iterations can run on this many new blocks."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.new_blocks(middle) <= blocks else (low, middle - 1)
        return low

    def advance(self, steps: int) -> list[S]:
        """Do iterations; return the members that finished with the last one; see `DecodeGroup.advance`."""
        done = DecodeGroup.advance(self, steps)
        for seq_id in self._holding_more.take(self.step):
            self._residues_more[-self.members[seq_id].kv_offset % self._block_tokens] -= 1
        return done
