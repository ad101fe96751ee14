"""What a row's load and metric ask of the simulator: requests, and how they are batched."""

from dataclasses import dataclass
from typing import Final

from afterwatt.fidelity.points.loads import RequestLoad, arrivals_of, batch_of, chat_of, pieces_of
from afterwatt.fidelity.points.refusals import Reason, Refused
from afterwatt.fidelity.points.table import MOST_REQUESTS, Point
from afterwatt.hwprofiles.stacks import software_of
from afterwatt.policies.config import PolicySet

MOST_BUDGET_TOKENS: Final = 16_384
"""Tokens of an iteration over a static batch's prompts, however many there are: its time is linear by then."""
SERVING_TOKENS: Final = 8192
SERVING_SEATS: Final = 256
"""Tokens and sequences of an iteration of an engine that serves, where a row does not say."""
OPEN_LOOP_S: Final = 60.0
"""How long requests come in where that is not stated."""
GENERATIONS: Final = 5
"""Requests per seat of a steady load: the first and the last generation are left out of what is measured."""
LEAST_REQUESTS: Final = 96
"""Requests of the smallest steady load; and of the largest one over a pipeline, whose iterations are taken singly."""
RESERVED_TOKENS: Final = 2048
PIECES: Final = {"llama.cpp-cuda": 512}
"""Stacks that compute prompts in pieces of so many tokens (llama.cpp's n_ubatch); others take a batch's at once."""
ONLY_PROMPTS: Final = ("prefill_tok_s", "ttft_s")


@dataclass(frozen=True, slots=True)
class AskedLoad:
    """A row's load.

    Attributes:
        load: requests.
        policies: how they are batched.
        assumed: what was guessed.
        reserve_tokens: tokens of an iteration that memory is set aside for.
    """

    load: RequestLoad
    policies: PolicySet
    assumed: tuple[str, ...] = ()
    reserve_tokens: int = RESERVED_TOKENS


def asked_of(point: Point, stack: str, stages: int) -> AskedLoad:
    """Return the load of a row.

    Args:
        point: the row.
        stack: its software.
        stages: pipeline stages of the deployment.

    Raises:
        Refused: how many requests run at a time, how often they come, or their lengths are not stated.
    """
    told = [point.batch, point.users, point.requests]
    if len([one for one in told if one is not None]) > 1 or (point.rate_per_s and (point.batch or point.users)):
        raise Refused(Reason.UNCLEAR_LOAD, "batch, users and requests exclude one another; keep one of them")
    answer = 1.0 if point.metric in ONLY_PROMPTS and point.output_tokens is None else point.output_tokens
    if point.prompt_tokens is None or answer is None:
        lacking = "prompt_tokens" if point.prompt_tokens is None else "output_tokens"
        raise Refused(
            Reason.UNCLEAR_LOAD, f"{lacking} is not stated; write a length, and in `assumed` if it is a guess"
        )
    lengths = (point.prompt_tokens, answer)
    if point.users is not None:
        count = min(MOST_REQUESTS, max(LEAST_REQUESTS, GENERATIONS * point.users))
        load = chat_of(count, *lengths, min(point.users, count // 3))
        return AskedLoad(load, _policies(point, max(SERVING_TOKENS, point.users), point.users))
    if point.rate_per_s is not None or point.requests is not None:
        count = point.requests or max(32, round(OPEN_LOOP_S * (point.rate_per_s or 0.0)))
        count = min(count, MOST_REQUESTS if stages == 1 else LEAST_REQUESTS)
        load = arrivals_of(count, point.rate_per_s, *lengths) if point.rate_per_s else chat_of(count, *lengths, None)
        return AskedLoad(load, _policies(point, SERVING_TOKENS, SERVING_SEATS))
    return _batch(point, stack, stages, max(1, round(lengths[0])), max(1, round(lengths[1])))


def _batch(point: Point, stack: str, stages: int, prompt: int, output: int) -> AskedLoad:
    """A batch of equal requests, prompts and answers; or one prompt's pieces."""
    if point.batch is None and point.metric in ("throughput_tok_s", "throughput_req_s", "energy_j_per_tok"):
        raise Refused(Reason.UNCLEAR_LOAD, "neither batch, users nor requests says how many requests run at a time")
    marks: tuple[str, ...] = () if point.batch is not None else ("batch: not stated, one request taken",)
    batch, piece = point.batch or 1, point.iteration_tokens or PIECES.get(software_of(stack))
    usual = point.iteration_tokens is None and not point.context_tokens
    if piece is not None and prompt > piece and stages > 1 and batch == output == 1 and usual:
        marks = (*marks, "pieces of the prompt follow one another through the GPUs; each sees only itself")
        return AskedLoad(pieces_of(prompt, piece), _policies(point, piece, 2 * stages, "prefill-first"), marks, piece)
    load = batch_of(batch, prompt, output, point.context_tokens)
    if piece is not None and (prompt > piece or point.iteration_tokens):
        return AskedLoad(load, _policies(point, piece, batch), marks, piece)
    budget = min(batch * prompt, max(prompt, MOST_BUDGET_TOKENS))
    return AskedLoad(load, _policies(point, budget, batch, "prefill-first"), marks)


def _policies(point: Point, budget: int, seats: int, batching: str = "chunked") -> PolicySet:
    return PolicySet(
        batching=point.batching or batching,
        token_budget=point.iteration_tokens or budget,
        max_seqs=seats,
        share_prefixes=point.context_tokens > 0,
    )
