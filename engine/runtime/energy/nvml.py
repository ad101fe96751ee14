"""A GPU through NVIDIA's management library."""

from typing import Any, Final

from afterwatt.engine.runtime.energy.reading import MeterError

_AVERAGED_FROM: Final = (8, 6)
_CLOCKS: Final = {"graphics": 0, "sm": 1, "memory": 2}  # nvmlClockType_t
Answer = str | int | float | None


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
            self._handle = self._found(index, uuid)
        except self._library.NVMLError as fault:
            raise MeterError(f"NVML does not answer ({fault})") from None
        self._sliced = self._told("nvmlDeviceIsMigDeviceHandle") == 1
        if self._sliced:  # power is the whole GPU's; a slice of it has no sensor
            self._handle = self._ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle")

    def _found(self, index: int, uuid: str | None) -> Any:  # noqa: ANN401 - a handle
        if uuid is None:
            return self._library.nvmlDeviceGetHandleByIndex(index)
        if uuid.startswith(("GPU-", "MIG-")):
            return self._library.nvmlDeviceGetHandleByUUID(uuid)
        try:
            return self._library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except self._library.NVMLError:
            return self._library.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")

    @property
    def covers(self) -> str:
        """Return what its joules and watts are of."""
        if self._sliced:
            return "the whole board, its other MIG slices included"
        if "GH200" in str(_text(self._told("nvmlDeviceGetName"))):
            return "the module: the GPU, the processor beside it, and their memory"
        return "the board"

    @property
    def power_note(self) -> str:
        """Return what a reading of its power is (NVML API reference, `nvmlDeviceGetPowerUsage`)."""
        capability = self._told("nvmlDeviceGetCudaComputeCapability")
        if capability is None:
            return "NVML gives a mean over a second or the power of an instant: runs should take several seconds"
        if tuple(capability) >= _AVERAGED_FROM:
            return "NVML gives averages over a second: runs should take several seconds"
        return "NVML gives the power of an instant: what changes between two samples is not seen"

    def state(self) -> dict[str, Answer]:
        """Return what a measurement hangs on beside the card: driver, clocks, limits, ECC, MIG; None where unknown."""
        ecc = self._told("nvmlDeviceGetEccMode")
        mig = self._told("nvmlDeviceGetMigMode")
        found: dict[str, Answer] = {
            "driver": _text(self._told("nvmlSystemGetDriverVersion", of_device=False)),
            "vbios": _text(self._told("nvmlDeviceGetVbiosVersion")),
            "ecc": None if ecc is None else bool(ecc[0]),
            "mig": None if mig is None else bool(mig[0]),
            "mig_slice": self._sliced,
            "persistence": self._told("nvmlDeviceGetPersistenceMode"),
            "temperature_c": self._told("nvmlDeviceGetTemperature", 0),
            "pcie_generation": self._told("nvmlDeviceGetCurrPcieLinkGeneration"),
            "pcie_width": self._told("nvmlDeviceGetCurrPcieLinkWidth"),
        }
        for name, kind in _CLOCKS.items():
            for when, call in (("now", "nvmlDeviceGetClockInfo"), ("most", "nvmlDeviceGetMaxClockInfo")):
                mhz = self._told(call, kind)
                found[f"{name}_clock_{when}_hz"] = None if mhz is None else 1e6 * mhz
        for name, call in (("limit_w", "nvmlDeviceGetEnforcedPowerLimit"), ("power_w", "nvmlDeviceGetPowerUsage")):
            milliwatts = self._told(call)
            found[name] = None if milliwatts is None else milliwatts / 1e3
        return found

    def counter_j(self) -> float:
        """Return joules since the driver was loaded (Volta and newer); raises `MeterError`."""
        return float(self._ask("nvmlDeviceGetTotalEnergyConsumption")) / 1e3

    def power_w(self) -> float:
        """Return watts, see `power_note`; raises `MeterError`."""
        return float(self._ask("nvmlDeviceGetPowerUsage")) / 1e3

    def limit_w(self) -> float:
        """Return the enforced power limit in watts; raises `MeterError`."""
        return float(self._ask("nvmlDeviceGetEnforcedPowerLimit")) / 1e3

    def name(self) -> str:
        """Return what the card is called; raises `MeterError`."""
        return str(_text(self._ask("nvmlDeviceGetName")))

    def capability(self) -> tuple[int, int]:
        """Return its compute capability; raises `MeterError`."""
        major, minor = self._ask("nvmlDeviceGetCudaComputeCapability")
        return int(major), int(minor)

    def count(self) -> int:
        """Return how many GPUs the library sees, this one included; raises `MeterError`."""
        return int(self._ask("nvmlDeviceGetCount", of_device=False))

    def _ask(self, name: str, *more: int, of_device: bool = True) -> Any:  # noqa: ANN401 - whatever the library returns
        try:
            return getattr(self._library, name)(*([self._handle] if of_device else []), *more)
        except self._library.NVMLError as fault:
            raise MeterError(f"{name} says {fault}") from None

    def _told(self, name: str, *more: int, of_device: bool = True) -> Any:  # noqa: ANN401 - whatever the library returns
        """Return what the library says; None where it, its driver or the card does not know the question."""
        try:
            return self._ask(name, *more, of_device=of_device)
        except (MeterError, AttributeError):
            return None


def _text(said: str | bytes | None) -> str | None:
    """Return a text; older libraries give bytes."""
    return said.decode() if isinstance(said, bytes) else said


def _pynvml() -> Any:  # noqa: ANN401 - a module
    try:
        import pynvml
    except ImportError:
        raise MeterError("NVML's module is not installed; pip install 'afterwatt[engine]'") from None
    return pynvml
