"""The devices of a machine, and which number formats the engine stores and computes in on each."""

from dataclasses import dataclass
from typing import Final

import torch

from afterwatt.engine.runtime.doctor import native_formats, runs_on, wheel_for
from afterwatt.engine.runtime.errors import EngineError

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CPU: Final = torch.device("cpu")
NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


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
    native = native_formats(capability)
    by_itself = "fp32" if capability is None else "bf16" if "bf16" in native else "fp16"
    stored = by_itself if asked == "auto" else asked
    compute = DTYPES[stored if stored in native else "fp32"]
    return DtypePolicy(weights=DTYPES[stored], compute=compute, kv=DTYPES[stored])


def find_device(name: str) -> torch.device:
    """Return a device by its name: auto (a GPU that this torch has code for, else the processor), cpu, cuda, cuda:N.

    Raises:
        EngineError: there is no such device here, or this torch has no code for it.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return next((cuda for number in range(count) if _has_code(cuda := torch.device("cuda", number))), CPU)
    kind, _, number = name.partition(":")
    if name == "cpu":
        return CPU
    if kind != "cuda" or not (number or "0").isdecimal():
        raise EngineError(f"device {name!r} is unknown; expected auto, cpu, cuda or cuda:N")
    if int(number or 0) >= count:
        raise EngineError(
            f"device {name!r} is not here: torch {torch.__version__} sees {count} GPUs; try `afterwatt doctor`, or "
            "--device cpu"
        )
    device = torch.device("cuda", int(number or 0))
    if not _has_code(device):
        capability = torch.cuda.get_device_capability(device)
        raise EngineError(
            f"{device_name(device)} has compute capability {capability[0]}.{capability[1]}, for which torch "
            f"{torch.__version__} has no code: {wheel_for(capability)}"
        )
    return device


def _has_code(device: torch.device) -> bool:
    return runs_on(torch.cuda.get_device_capability(device), torch.cuda.get_arch_list())


def settle(device: torch.device) -> None:
    """Make a GPU the one that graphs, streams and libraries of this process mean, and keep its attention off cuDNN.

    From torch 2.11 on cuDNN's attention comes first on Hopper and newer. It makes a plan for every new shape, in tenths
    of a second each, and serving has hundreds of shapes.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.enable_cudnn_sdp(False)


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """Return a device's CUDA compute capability; None: a CPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def memory_of(device: torch.device) -> int | None:
    """Return the bytes that a GPU has; None: a CPU."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None


def device_name(device: torch.device) -> str:
    """Return a device's name as its driver tells it; "cpu" for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
