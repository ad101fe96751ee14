"""What users were promised."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slo:
    """Longest times to the first token, per further token and to the last one; None: no promise."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


NO_PROMISE = Slo()
