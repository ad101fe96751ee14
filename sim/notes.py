"""What a worker writes down of its plans, for the recorder: who was admitted, who advanced, who is done."""

from collections.abc import Callable

from afterwatt.policies.plans import PrefillChunk
from afterwatt.policies.scheduler import Scheduler
from afterwatt.sim.recorder import LaneNotes, pack_chunk, pack_jump
from afterwatt.sim.ticket import Ticket


def note_admissions(scheduler: Scheduler[Ticket], lanes: list[LaneNotes], lane: LaneNotes, now_ps: int) -> None:
    """Write down who lost its memory, who got it back, and who was admitted (to this lane) by the last plan."""
    at_ps = now_ps - lane.origin_ps
    for ticket in scheduler.preempted:
        lane.queue_jumps += pack_jump(at_ps, 1)
        for other in lanes:
            if ticket.seq_id in other.live:
                other.lose(ticket)
    for ticket in scheduler.resumed:
        lane.queue_jumps += pack_jump(at_ps, -1)
        lane.join(ticket)
    for ticket in scheduler.admitted:
        lane.queue_jumps += pack_jump(at_ps, -1)
        if ticket.scheduled_ps is None:
            ticket.scheduled_ps = now_ps
            ticket.cached_tokens = ticket.kv_tokens


def note_prefills(
    lane: LaneNotes, chunks: tuple[PrefillChunk[Ticket], ...], first_tokens: list[Ticket], now_ps: int
) -> None:
    """Write down whose prompts advanced, and who produced a first token or its next one after a preemption.

    Called when the stride has been noted.
    """
    index = lane.noted - 1
    for ticket, tokens, past in chunks:
        lane.prefill_tickets.append(ticket)
        lane.prefills += pack_chunk(index, tokens, past)
    for ticket in first_tokens:
        if ticket.first_ps is None:
            ticket.first_ps = now_ps
        else:
            gap = now_ps - ticket.last_ps
            ticket.stall_ps = max(ticket.stall_ps, gap)
            lane.lost_gaps.append(gap)
        ticket.last_ps = now_ps
        if ticket.finish_step is not None:
            lane.join(ticket)


def note_finished(lane: LaneNotes, finished: list[Ticket], now_ps: int, on_finish: Callable[[Ticket], None]) -> None:
    """Write down who is done, and say so."""
    for ticket in finished:
        ticket.finish_ps = now_ps
        if ticket.seq_id in lane.live:
            lane.leave(ticket)
        on_finish(ticket)
