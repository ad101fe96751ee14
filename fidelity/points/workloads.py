"""What a row's batch, lengths and metric ask of the simulator: requests, policies, and what is read off the run."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from afterwatt.fidelity.points.amounts import Amount, read_amount
from afterwatt.fidelity.points.habits import DATASETS, OUTPUTS, Habit
from afterwatt.fidelity.points.loads import Load, arrivals_of, batch_of, chat_of, pieces_of
from afterwatt.fidelity.points.refusals import Reason, Refused
from afterwatt.fidelity.points.table import Point
from afterwatt.policies.config import PolicySet

MOST_BUDGET_TOKENS: Final = 16_384
"""Tokens of an iteration over a static batch's prompts, however many there are: its time is linear by then."""
OPEN_LOOP_S: Final = 60.0
"""How long requests come in where that is not stated."""
MOST_REQUESTS: Final = 20_000
GENERATIONS: Final = 5
"""Requests per seat of a steady load: the first and the last generation are left out of what is measured."""
LEAST_REQUESTS: Final = 96
"""Requests of the smallest steady load; and of the largest one over a pipeline, whose iterations are taken singly."""
_RATE: Final = re.compile(r"([\d.]+)\s*(?:req(?:uest)?s?/s|rps|qps)", re.IGNORECASE)
_USERS: Final = re.compile(r"(\d+)\s*(?:concurrent|users?|clients?|streams|in flight)", re.IGNORECASE)
_PROMPTS: Final = re.compile(r"(\d+)\s*(?:prompts|requests)", re.IGNORECASE)
_DEPTH: Final = re.compile(r"(?:KV )?depth (?:of )?(\d+)|@\s*d(\d+)", re.IGNORECASE)
_BY_TOKEN: Final = ("decode_tok_s", "tpot_s")
"""Metrics of decoding alone."""
_MICRO: Final = re.compile(r"micro-?batch|u-?batch|\bn_ubatch\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """A row's load.

    Attributes:
        load: requests.
        policies: how they are batched.
        metric: what to read off.
        assumed: what was guessed; widen: factor on the interval for it.
        reserve_tokens: tokens of an iteration that memory is set aside for.
    """

    load: Load
    policies: PolicySet
    metric: str
    assumed: tuple[str, ...]
    widen: float
    reserve_tokens: int


@dataclass(slots=True)
class _Reading:
    """Notes taken while a row is read."""

    point: Point
    habit: Habit
    marks: list[str]
    widen: float = 1.0

    def guess(self, what: str, factor: float) -> None:
        """Note an assumption and how much it widens the interval; guesses of one row do not multiply."""
        self.marks.append(what)
        self.widen = max(self.widen, factor)

    def dataset(self) -> str | None:
        """Return the data set that any of the cells names."""
        for text in (self.point.prompt_tokens, self.point.output_tokens, self.point.batch):
            for name in DATASETS:
                if name in text.lower().replace(" ", "-"):
                    return name
        return None

    def side(self, column: str, usual: int) -> float:
        """Return a length: as stated, by the data set, or by habit."""
        text = getattr(self.point, column)
        amount: Amount | None = read_amount(text)
        name = self.dataset()
        if name is not None and (amount is None or not amount.exact):
            prompt, output, why = DATASETS[name]
            if column == "output_tokens":
                output, why = self._talk(name, amount, output, why)
            self.guess(f"{column}: {why}", 1.1)
            return prompt if column == "prompt_tokens" else output
        if amount is None:
            if text:
                self.guess(f"{column}: {text[:40]!r} not understood; {usual} taken", self.habit.widen)
            else:
                self.guess(f"{column}: {usual}; {self.habit.why}", self.habit.widen)
            return float(usual)
        if not amount.exact:
            self.guess(f"{column}: {text!r} taken as {amount.value:.0f}", 1.1)
        return amount.value

    def _talk(self, name: str, amount: Amount | None, usual: float, why: str) -> tuple[float, str]:
        for pattern, model, mean, source in OUTPUTS:
            if re.search(pattern, name) and re.search(model, self.point.model, re.IGNORECASE):
                return mean, source
        return (usual, why) if amount is None else (amount.value, f"stated as {self.point.output_tokens!r}")


def asked_of(point: Point, habit: Habit, stages: int) -> Asked:
    """Return the load of a row.

    Args:
        point: the row.
        habit: how its source measures.
        stages: pipeline stages of the deployment.

    Raises:
        Refused: how many requests run at a time, or how often they come, is not stated.
    """
    reading = _Reading(point, habit, [])
    text = point.batch
    if match := _RATE.search(text):
        return _open_loop(reading, float(match[1]), stages)
    if match := _USERS.search(text):
        return _served(reading, int(match[1]))
    amount = read_amount(text)
    if amount is None and (match := _PROMPTS.search(text)):
        return _queued(reading, min(int(match[1]), MOST_REQUESTS if stages == 1 else LEAST_REQUESTS))
    if amount is None:
        if text or not _single(point.metric):
            raise Refused(Reason.UNCLEAR_LOAD, f"batch {text!r} does not say how many requests run at a time")
        reading.marks.append("batch: not stated, one request taken")
        amount = Amount(1.0, exact=False)
    elif not amount.exact:
        reading.guess(f"batch: {text!r} taken as {amount.whole}", 1.2)
    if amount.whole > MOST_REQUESTS:
        raise Refused(Reason.UNCLEAR_LOAD, f"batch {text!r} is more than {MOST_REQUESTS:,} requests at a time")
    if _MICRO.search(point.notes) or _DEPTH.search(point.notes):
        return _micro(reading, amount.whole)
    if amount.whole > 1 and (habit.saturates or reading.dataset() is not None):
        return _served(reading, amount.whole)
    answered = read_amount(point.output_tokens)
    if point.metric == "ttft_s" and answered is not None and answered.whole > 1:
        return _static(reading, amount.whole, stages)
    readers: dict[str, Callable[[_Reading, int, int], Asked]] = {"prefill_tok_s": _prompt, "ttft_s": _prompt}
    return readers.get(point.metric, _static)(reading, amount.whole, stages)


def _single(metric: str) -> bool:
    """Whether a metric that comes without a batch is commonly that of one request."""
    return metric in {"decode_tok_s", "prefill_tok_s", "ttft_s", "tpot_s"}


def _finish(reading: _Reading, load: Load, policies: PolicySet, metric: str, reserve_tokens: int = 2048) -> Asked:
    return Asked(load, policies, metric, tuple(reading.marks), reading.widen, reserve_tokens)


def _policies(budget: int, seats: int, chunked: bool, share: bool = False) -> PolicySet:
    return PolicySet(
        batching="chunked" if chunked else "prefill-first",
        token_budget=max(1, budget),
        max_seqs=max(1, seats),
        share_prefixes=share,
    )


def _prompt(reading: _Reading, batch: int, stages: int) -> Asked:
    """Prompts alone."""
    habit = reading.habit
    usual = habit.prompt_tokens if habit.prompt_tokens > 1 else 512  # 1: a stack whose habit is an empty context
    prompt = max(1, round(reading.side("prompt_tokens", usual)))
    metric = reading.point.metric
    piece = habit.piece_tokens
    if piece is not None and prompt > piece:
        if stages > 1 and habit.overlaps and batch == 1:
            reading.marks.append("pieces of the prompt follow one another through the GPUs; each sees only itself")
            return _finish(
                reading, pieces_of(prompt, piece), _policies(piece, 2 * stages, chunked=False), metric, piece
            )
        return _finish(reading, batch_of(batch, prompt, 1), _policies(piece, batch, chunked=True), metric, piece)
    budget = min(batch * prompt, max(prompt, MOST_BUDGET_TOKENS))
    return _finish(reading, batch_of(batch, prompt, 1), _policies(budget, batch, chunked=False), metric)


def _static(reading: _Reading, batch: int, stages: int) -> Asked:  # noqa: ARG001 - as `_prompt`
    """A batch of equal requests, prompts and answers."""
    habit, metric = reading.habit, reading.point.metric
    if metric == "decode_tok_s" and batch > 1:
        reading.marks.append("decoding speed: taken as that of the whole batch")
    prompt = max(1, round(reading.side("prompt_tokens", habit.prompt_tokens)))
    output = max(2, round(reading.side("output_tokens", habit.output_tokens)))
    piece = habit.piece_tokens
    if piece is not None and prompt > piece:
        return _finish(reading, batch_of(batch, prompt, output), _policies(piece, batch, chunked=True), metric, piece)
    budget = min(batch * prompt, max(prompt, MOST_BUDGET_TOKENS))
    return _finish(reading, batch_of(batch, prompt, output), _policies(budget, batch, chunked=False), metric)


def _micro(reading: _Reading, batch: int) -> Asked:
    """Work behind a context that is already cached, or a prompt in pieces of the batch column.

    What goes token by token is decoding, whatever the benchmark calls it: a decoding metric at a depth, or a prompt in
    pieces of one token.
    """
    point, metric = reading.point, reading.point.metric
    match = _DEPTH.search(point.notes)
    depth = int(match[1] or match[2]) if match else 0
    pieces = bool(_MICRO.search(point.notes))
    singly = batch == 1 if pieces else metric in _BY_TOKEN
    if singly:
        return _behind(reading, batch, depth, metric if metric in _BY_TOKEN else "decode_tok_s")
    if not (pieces or metric == "prefill_tok_s" or point.prompt_tokens):
        return _behind(reading, batch, depth, metric)
    prompt = max(1, round(reading.side("prompt_tokens", 512)))
    piece = batch if pieces or batch > 1 else reading.habit.piece_tokens or 512
    load = batch_of(1, prompt, 1, depth)
    return _finish(reading, load, _policies(piece, 1, chunked=True, share=depth > 0), "prefill_tok_s", piece)


def _behind(reading: _Reading, batch: int, depth: int, metric: str) -> Asked:
    """Sequences that decode behind a cached context; a prompt fed token by token stands in for an unstated answer."""
    point, prompt = reading.point, 1
    if point.output_tokens or not point.prompt_tokens:
        output = reading.side("output_tokens", reading.habit.output_tokens)
        prompt = round(reading.side("prompt_tokens", 1)) if point.prompt_tokens else 1
    else:
        output = reading.side("prompt_tokens", reading.habit.output_tokens)
        reading.marks.append("the prompt goes token by token, as an answer of its length")
    prompt, output = max(1, prompt), max(2, round(output))
    load = batch_of(batch, prompt, output, depth)
    return _finish(reading, load, _policies(512, batch, chunked=True, share=depth > 0), metric, 512)


def _served(reading: _Reading, seats: int) -> Asked:
    """An engine kept full: more requests wait than may run."""
    prompt = reading.side("prompt_tokens", 512)
    output = reading.side("output_tokens", 256)
    count = min(MOST_REQUESTS, max(LEAST_REQUESTS, GENERATIONS * seats))
    load = chat_of(count, prompt, output, min(seats, count // 3))
    habit = reading.habit
    policies = _policies(max(habit.token_budget, seats), seats, habit.chunked)
    return _finish(reading, load, policies, reading.point.metric)


def _queued(reading: _Reading, count: int) -> Asked:
    """So many requests that are all there at once; the whole run counts."""
    prompt = reading.side("prompt_tokens", 512)
    output = reading.side("output_tokens", 256)
    habit = reading.habit
    load = chat_of(count, prompt, output, None)
    return _finish(reading, load, _policies(habit.token_budget, 256, habit.chunked), reading.point.metric)


def _open_loop(reading: _Reading, rate_per_s: float, stages: int) -> Asked:
    """Requests at a rate."""
    if not 0.0 < rate_per_s < 1e5:
        raise Refused(Reason.UNCLEAR_LOAD, f"batch {reading.point.batch!r} is no rate that makes sense")
    habit = reading.habit
    prompt = reading.side("prompt_tokens", habit.prompt_tokens)
    output = reading.side("output_tokens", habit.output_tokens)
    told = _PROMPTS.search(reading.point.notes)
    count = min(MOST_REQUESTS, int(told[1]) if told else max(32, round(OPEN_LOOP_S * rate_per_s)))
    if stages > 1:
        count = min(count, LEAST_REQUESTS)
    load = arrivals_of(max(1, count), rate_per_s, prompt, output)
    return _finish(reading, load, _policies(habit.token_budget, 256, habit.chunked), reading.point.metric)
