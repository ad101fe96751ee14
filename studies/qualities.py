"""What `afterwatt evaluate` measured of answers, for a run of the same model: by precision, or said to be missing."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from afterwatt.modelspecs.files import read_json
from afterwatt.policies.config import PolicySet
from afterwatt.sim.config import Answers
from afterwatt.studies.errors import OptionError

WIDE = ("fp32", "fp16", "bf16")


class _Line(BaseModel):
    policy: str
    perplexity: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    kl_nats: Annotated[float, Field(allow_inf_nan=False)]
    agreement_frac: Annotated[float, Field(ge=0.0, le=1.0)]


class _Measured(BaseModel):
    model: str
    dtype: str
    text: str
    tokens: Annotated[int, Field(ge=1)]
    policies: Annotated[list[_Line], Field(min_length=1)]


def answers_of(path: Path, model: str, precision: str, policies: PolicySet) -> Answers:
    """Return what a file says of a run's answers.

    Args:
        path: of what `afterwatt evaluate --out` wrote.
        model: of the run.
        precision: that its weights are stored in.
        policies: of the run; of those that leave neurons out, no file says anything.

    Raises:
        OptionError: it is no such file, or of another model.
    """
    try:
        content: Any = read_json(path)
        found = _Measured.model_validate(content)
    except (OSError, ValueError, ValidationError) as fault:
        reason = getattr(fault, "strerror", None) or "not what it writes"
        raise OptionError(
            f"--quality {str(path)[:200]} holds no figures of `afterwatt evaluate --out` ({reason}); make it with that"
        ) from None
    if found.model != model:
        raise OptionError(
            f"--quality {str(path)[:200]} is of {found.model[:80]!r} and the run of {model!r}; evaluate what is run"
        )
    named = {line.policy: line for line in found.policies}
    line = named.get(found.dtype) if precision in WIDE else named.get(precision)
    if line is None or policies.weights == "m2cache":
        what = policies.name if policies.weights == "m2cache" else precision
        return Answers(None, f"not measured: {path.name} says nothing of {what}")
    return Answers(
        line.perplexity,
        f"{line.policy} on {found.text} ({found.tokens:,} tokens): KL {max(0.0, line.kl_nats):.3g} nats from "
        f"{found.dtype}, the same token likeliest in {100.0 * line.agreement_frac:.1f} % ({path.name})",
    )
