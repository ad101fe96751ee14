"""Which number formats a device stores and computes in.

Rates by compute capability: CUDA C++ Programming Guide, "Arithmetic Instructions". fp16 runs at full rate on 5.3, 6.0,
6.2 and from 7.0 on; elsewhere (Maxwell, the P40's 6.1) at 1/64 or not at all. bf16 is native from 8.0 on.
"""

from dataclasses import dataclass
from typing import Final

import torch

from afterwatt.engine.runtime.errors import EngineError

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
_FAST_FP16: Final = ((5, 3), (6, 0), (6, 2))


@dataclass(frozen=True, slots=True)
class DtypePolicy:
    """Formats of a run.

    Attributes:
        weights: matrices in memory.
        compute: activations, and what matrices are cast to before they are multiplied with.
        kv: keys and values in memory.
    """

    weights: torch.dtype
    compute: torch.dtype
    kv: torch.dtype


def dtype_policy(capability: tuple[int, int] | None, asked: str = "auto") -> DtypePolicy:
    """Choose formats.

    Args:
        capability: CUDA compute capability; None: a CPU.
        asked: auto, fp32, fp16 or bf16: what weights and cache are stored in. Computed in is the same where the device
            is fast at it, else fp32.

    Raises:
        EngineError: no such format.
    """
    if asked not in ("auto", *DTYPES):
        raise EngineError(f"dtype {asked!r} is unknown; known: auto, {', '.join(DTYPES)}")
    if capability is None:
        native = {"fp32", "bf16"}  # a CPU's fp16 products are slower than fp32's by more than ten times
        stored = "fp32" if asked == "auto" else asked
    else:
        fast_fp16 = capability >= (7, 0) or capability in _FAST_FP16
        native = {"fp32"} | ({"fp16"} if fast_fp16 else set()) | ({"bf16"} if capability >= (8, 0) else set())
        stored = asked if asked != "auto" else "bf16" if "bf16" in native else "fp16"
    compute = DTYPES[stored if stored in native else "fp32"]
    return DtypePolicy(weights=DTYPES[stored], compute=compute, kv=DTYPES[stored])


def find_device(name: str) -> torch.device:
    """Return a device by torch's name for it.

    Raises:
        EngineError: torch has no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EngineError(f"device {name!r} is unknown; expected cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise EngineError(f"device {name!r} is not supported; expected cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.index or 0
        if index >= count:
            raise EngineError(f"device {name!r} is not there: torch sees {count} CUDA devices; take --device cpu")
        return torch.device("cuda", index)
    return torch.device("cpu")


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """Return a device's CUDA compute capability; None: a CPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def device_name(device: torch.device) -> str:
    """Return a device's name as its driver tells it; "cpu" for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
