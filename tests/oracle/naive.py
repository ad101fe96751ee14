"""A serving engine without any cleverness: every sequence, token and block by itself, one iteration at a time.

Slow and short, to hold the scheduler's sums, strides and closed forms against. It knows the rules of the three batching
policies and preemption by recomputing, with what is left of one's blocks; no prefixes, no swapping, one replica.
"""

from dataclasses import dataclass, field

from afterwatt.hwprofiles.roofline import TimeModel
from afterwatt.policies.config import PolicySet


@dataclass(eq=False)
class Block:
    """A KV block; what it last held stays in it until somebody takes it: (whose, the how manieth)."""

    holds: tuple[int, int] | None = None


@dataclass
class Job:
    """A request; KV blocks are held one by one, as a list."""

    number: int
    arrival_ps: int
    prompt: int
    output: int
    emitted: int = 0
    computed: int = 0
    to_fill: int = 0
    blocks: list[Block] = field(default_factory=list)
    scheduled_ps: int | None = None
    first_ps: int | None = None
    finish_ps: int | None = None
    preemptions: int = 0


class NaiveEngine:
    """Runs jobs to their end; `watermark` is in blocks."""

    def __init__(self, policies: PolicySet, times: TimeModel, kv_blocks: int, watermark: int) -> None:
        self.policies, self.times, self.watermark = policies, times, watermark
        self.free = [Block() for _ in range(kv_blocks)]
        self.waiting: list[Job] = []
        self.prefilling: list[Job] = []
        self.decoding: list[Job] = []
        self.iterations = 0

    def run(self, jobs: list[Job]) -> None:
        now_ps = 0
        coming = list(jobs)
        while coming or self.waiting or self.prefilling or self.decoding:
            wake_ps = 0
            if not (self.waiting or self.prefilling or self.decoding):
                rest_ps = max(0, coming[0].arrival_ps - now_ps)
                now_ps, wake_ps = now_ps + rest_ps, self.times.wake_ps(rest_ps)
            while coming and coming[0].arrival_ps <= now_ps:
                job = coming.pop(0)
                job.to_fill = job.prompt
                self.waiting.append(job)
            now_ps = self.iterate(now_ps, wake_ps)

    def iterate(self, now_ps: int, wake_ps: int) -> int:
        """One iteration from `now_ps`, `wake_ps` longer than such an iteration is; returns when it ends."""
        self.make_room()
        decode, pieces = self.choose()
        for job, _ in pieces:
            if job.scheduled_ps is None:
                job.scheduled_ps = now_ps
        decoding = list(self.decoding) if decode else []
        for job in decoding:
            if self.needs_block(job):
                self.take(job)
            job.computed += 1
        emits = len(decoding) + sum(job.computed + tokens == job.to_fill for job, tokens in pieces)
        chunks = [(job, tokens, job.computed) for job, tokens in pieces]
        context = sum(job.computed for job in decoding)
        end_ps = now_ps + self.times.step(len(decoding), context, chunks, emits, 1)[0] + wake_ps
        self.iterations += 1
        for job in decoding:
            self.emit(job, end_ps)
        for job, tokens in pieces:
            job.computed += tokens
            if job.computed == job.to_fill:
                self.prefilling.remove(job)
                self.decoding.append(job)
                self.emit(job, end_ps)
        return end_ps

    def emit(self, job: Job, end_ps: int) -> None:
        job.emitted += 1
        if job.first_ps is None:
            job.first_ps = end_ps
        if job.emitted == job.output:
            job.finish_ps = end_ps
            self.decoding.remove(job)
            self.give_back(job)

    def needs_block(self, job: Job) -> bool:
        return job.computed == len(job.blocks) * self.policies.block_tokens

    def take(self, job: Job) -> None:
        """A block from the head of the queue of free ones; what it held is lost."""
        block = self.free.pop(0)
        block.holds = None
        job.blocks.append(block)

    def give_back(self, job: Job) -> None:
        """The last block first, at the tail of the queue."""
        full = job.computed // self.policies.block_tokens
        for index, block in reversed(list(enumerate(job.blocks))):
            block.holds = (job.number, index) if index < full else None
            self.free.append(block)
        job.blocks = []

    def own_blocks(self, job: Job) -> list[Block]:
        """What is left of a job's blocks, as far as it is whole, once those who decode have taken theirs."""
        if not self.policies.share_prefixes:
            return []
        spare = self.free[sum(self.needs_block(other) for other in self.decoding) :]
        there = {block.holds: block for block in spare if block.holds is not None}
        found: list[Block] = []
        while (job.number, len(found)) in there:
            found.append(there[job.number, len(found)])
        return found

    def make_room(self) -> None:
        """The youngest loses its memory until everybody who decodes can take one more step."""
        while sum(self.needs_block(job) for job in self.decoding) > len(self.free):
            job = (self.prefilling or self.decoding).pop()
            self.give_back(job)
            job.preemptions += 1
            job.to_fill, job.computed = job.prompt + job.emitted, 0
            self.waiting.insert(0, job)

    def choose(self) -> tuple[bool, list[tuple[Job, int]]]:
        """Who decodes (everybody or nobody), and which prompts get how many tokens."""
        policies = self.policies
        if policies.batching == "decode-first" and self.decoding:
            return True, []
        room = len(self.free) - sum(self.needs_block(job) for job in self.decoding) - self.watermark
        pieces: list[tuple[Job, int]] = []
        admitted: list[tuple[Job, int]] = []
        split = policies.batching == "chunked"
        left = policies.token_budget - (len(self.decoding) if split else 0)
        if policies.batching == "decode-first":
            left = 10**18  # it fills its batch, whatever the budget
        if left <= 0:
            return True, []
        for job in list(self.prefilling):
            if left > 0:
                pieces.append((job, min(left, job.to_fill - job.computed)))
                left -= pieces[-1][1]
        found = {job.number: self.own_blocks(job) for job in self.waiting}  # before anybody takes anything
        while self.waiting and left > 0 and len(self.decoding) + len(self.prefilling) < policies.max_seqs:
            job = self.waiting[0]
            blocks = -(-job.to_fill // policies.block_tokens)
            own = found[job.number]
            tokens = job.to_fill - len(own) * policies.block_tokens
            if blocks > room or (not split and tokens > left and pieces):
                break
            room -= blocks
            job.blocks = own
            job.computed = job.to_fill - tokens
            admitted.append((job, blocks))
            self.free = [block for block in self.free if block not in own]
            self.prefilling.append(self.waiting.pop(0))
            pieces.append((job, min(left, tokens) if split else tokens))
            left -= pieces[-1][1]
        for job, blocks in admitted:
            while len(job.blocks) < blocks:
                self.take(job)
        return (split or not pieces), pieces
