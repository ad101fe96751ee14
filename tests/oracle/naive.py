"""A serving engine without any cleverness: every sequence, token and block by itself, one iteration at a time.

Slow and short, to hold the scheduler's sums, strides and closed forms against. It knows the rules of the three batching
policies and preemption by recomputing; no prefixes, no swapping, one replica.
"""

from dataclasses import dataclass, field

from hwprofiles.roofline import TimeModel
from policies.config import PolicySet


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
    blocks: list[object] = field(default_factory=list)
    scheduled_ps: int | None = None
    first_ps: int | None = None
    finish_ps: int | None = None
    preemptions: int = 0


class NaiveEngine:
    """Runs jobs to their end; `watermark` is in blocks."""

    def __init__(self, policies: PolicySet, times: TimeModel, kv_blocks: int, watermark: int) -> None:
        self.policies, self.times, self.watermark = policies, times, watermark
        self.free: list[object] = [object() for _ in range(kv_blocks)]
        self.waiting: list[Job] = []
        self.prefilling: list[Job] = []
        self.decoding: list[Job] = []
        self.iterations = 0

    def run(self, jobs: list[Job]) -> None:
        now_ps = 0
        coming = list(jobs)
        while coming or self.waiting or self.prefilling or self.decoding:
            if not (self.waiting or self.prefilling or self.decoding):
                now_ps = max(now_ps, coming[0].arrival_ps)
            while coming and coming[0].arrival_ps <= now_ps:
                job = coming.pop(0)
                job.to_fill = job.prompt
                self.waiting.append(job)
            now_ps = self.iterate(now_ps)

    def iterate(self, now_ps: int) -> int:
        """One iteration from `now_ps`; returns when it ends."""
        self.make_room()
        decode, pieces = self.choose()
        for job, _ in pieces:
            if job.scheduled_ps is None:
                job.scheduled_ps = now_ps
        decoding = list(self.decoding) if decode else []
        for job in decoding:
            if self.needs_block(job):
                job.blocks.append(self.free.pop())
            job.computed += 1
        emits = len(decoding) + sum(job.computed + tokens == job.to_fill for job, tokens in pieces)
        chunks = [(job, tokens, job.computed) for job, tokens in pieces]
        context = sum(job.computed for job in decoding)
        end_ps = now_ps + self.times.step(len(decoding), context, chunks, emits, 1)[0]
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

    def give_back(self, job: Job) -> None:
        self.free += job.blocks
        job.blocks = []

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
        split = policies.batching == "chunked"
        left = policies.token_budget - (len(self.decoding) if split else 0)
        if left <= 0:
            return True, []
        for job in list(self.prefilling):
            if left > 0:
                pieces.append((job, min(left, job.to_fill - job.computed)))
                left -= pieces[-1][1]
        while self.waiting and left > 0 and len(self.decoding) + len(self.prefilling) < policies.max_seqs:
            job = self.waiting[0]
            blocks = -(-job.to_fill // policies.block_tokens)
            if blocks > room or (not split and job.to_fill > left and pieces):
                break
            room -= blocks
            job.blocks = [self.free.pop() for _ in range(blocks)]
            self.prefilling.append(self.waiting.pop(0))
            pieces.append((job, min(left, job.to_fill) if split else job.to_fill))
            left -= pieces[-1][1]
        return (split or not pieces), pieces
