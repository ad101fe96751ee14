"""A GPU through NVIDIA's management library."""

from typing import Any

from afterwatt.engine.runtime.energy.reading import MeterError


class Nvml:
    """One GPU through NVIDIA's management library.

    Args:
        index: CUDA's or NVML's number of it; the two differ under CUDA_VISIBLE_DEVICES, so give the UUID where known.
        uuid: as CUDA knows it, with or without `GPU-`.
        library: the module `pynvml`, or something that answers as it does.

    Raises:
        MeterError: no library, no driver, or no such GPU.
    """

    def __init__(self, index: int = 0, uuid: str | None = None, library: Any = None) -> None:  # noqa: ANN401 - a module
        self._library = _pynvml() if library is None else library
        try:
            self._library.nvmlInit()
            if uuid is None:
                self._handle = self._library.nvmlDeviceGetHandleByIndex(index)
            else:
                name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
                self._handle = self._library.nvmlDeviceGetHandleByUUID(name)
        except self._library.NVMLError as fault:
            raise MeterError(f"NVML does not answer ({fault})") from None

    def counter_j(self) -> float:
        """Return joules since the driver was loaded (Volta and newer); raises `MeterError`."""
        return float(self._ask("nvmlDeviceGetTotalEnergyConsumption")) / 1e3

    def power_w(self) -> float:
        """Return watts of the board, on most cards a mean over the last second; raises `MeterError`."""
        return float(self._ask("nvmlDeviceGetPowerUsage")) / 1e3

    def limit_w(self) -> float:
        """Return the enforced power limit in watts; raises `MeterError`."""
        return float(self._ask("nvmlDeviceGetEnforcedPowerLimit")) / 1e3

    def name(self) -> str:
        """Return what the card is called; raises `MeterError`."""
        said = self._ask("nvmlDeviceGetName")
        return said.decode() if isinstance(said, bytes) else str(said)  # bytes from older libraries

    def capability(self) -> tuple[int, int]:
        """Return its compute capability; raises `MeterError`."""
        major, minor = self._ask("nvmlDeviceGetCudaComputeCapability")
        return int(major), int(minor)

    def count(self) -> int:
        """Return how many GPUs the library sees, this one included; raises `MeterError`."""
        return int(self._ask("nvmlDeviceGetCount", of_device=False))

    def _ask(self, name: str, of_device: bool = True) -> Any:  # noqa: ANN401 - whatever the library returns
        try:
            return getattr(self._library, name)(*([self._handle] if of_device else []))
        except self._library.NVMLError as fault:
            raise MeterError(f"{name} says {fault}") from None


def _pynvml() -> Any:  # noqa: ANN401 - a module
    try:
        import pynvml
    except ImportError:
        raise MeterError("NVML's module is not installed; pip install 'afterwatt[engine]'") from None
    return pynvml
