"""An engine's report as the simulator's replay takes it."""

from collections.abc import Iterable

from afterwatt.engine.runtime.request import Report, Request
from afterwatt.sim.replay import RecordedRequest, RecordedStep


def recorded_steps(report: Report) -> list[RecordedStep]:
    """The iterations with their decisions; a tick of the clock is a picosecond."""
    ends = [step.plan_ns for step in report.steps[1:]] + [step.done_ns for step in report.steps[-1:]]
    return [
        RecordedStep(
            step.plan_ns, end, step.arrivals, tuple(entry), step.stopped, step.free_blocks, step.outstanding_tokens
        )
        for step, end, entry in zip(report.steps, ends, report.decisions, strict=True)
    ]


def recorded_requests(report: Report, requests: Iterable[Request]) -> list[RecordedRequest]:
    """What was asked for, in order of id."""
    refused = {refusal.request_id: refusal.at_ns for refusal in report.refusals}
    return [
        RecordedRequest(one.request_id, len(one.prompt_ids), one.output_tokens, one.prefix, refused.get(one.request_id))
        for one in sorted(requests, key=lambda one: one.request_id)
    ]
