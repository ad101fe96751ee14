"""What a command can end with: exit codes, and the sentence for each kind of error."""

import difflib
import errno
from typing import Final

DONE: Final = 0
BAD_INPUT: Final = 2
INFEASIBLE: Final = 3
INTERRUPTED: Final = 130
_LONGEST: Final = 1200
"""Letters of a sentence; a list of all known names takes no more."""
_SHOWN: Final = 120
_PLACES: Final = (
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
)


def exit_code_of(fault: BaseException) -> int | None:
    """Give the exit code of an error that is the user's to mend; None for one that is ours, and keeps its traceback."""
    import typer

    from afterwatt.engine.runtime.errors import EngineError
    from afterwatt.fidelity.kernels.table import KernelTableError
    from afterwatt.fidelity.points.table import PointsError
    from afterwatt.hwprofiles.errors import HardwareError
    from afterwatt.modelspecs.errors import ModelError
    from afterwatt.policies.errors import PolicyError
    from afterwatt.reports.errors import ReportError
    from afterwatt.sim.errors import Infeasible
    from afterwatt.studies.errors import OptionError
    from afterwatt.traces.errors import TraceError

    if isinstance(fault, Infeasible):
        return INFEASIBLE
    expected = (
        OptionError,
        EngineError,
        HardwareError,
        KernelTableError,
        ModelError,
        PointsError,
        PolicyError,
        ReportError,
        TraceError,
        typer.TyperException,
    )
    return BAD_INPUT if isinstance(fault, expected) or _of_a_place(fault) else None


def _of_a_place(fault: BaseException) -> bool:
    """Tell whether the system refused a file or folder that somebody named."""
    return isinstance(fault, OSError) and fault.filename is not None and fault.errno in _PLACES


def sentence_of(fault: BaseException) -> str:
    """Put an error on one line, with the nearest option where a name was mistyped."""
    if isinstance(fault, OSError) and _of_a_place(fault):
        return f"{str(fault.filename)[:_SHOWN]!r}: {fault.strerror}; name another place"
    said = fault.format_message() if hasattr(fault, "format_message") else str(fault)
    if hasattr(fault, "option_name") and hasattr(fault, "possibilities"):
        close = sorted(fault.possibilities or (), key=lambda name: _unlikeness(name, fault.option_name))
        said = f"there is no option {fault.option_name}"
        said += f"; did you mean {close[0]}?" if close else "; --help lists them all"
    line = " ".join(said.splitlines()).strip()
    if len(line) > _LONGEST:  # a name of thousands of letters is not needed whole, the way out is
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    return line[:1].lower() + line[1:] if hasattr(fault, "format_message") else line


def _unlikeness(name: str, given: str) -> float:
    return -difflib.SequenceMatcher(None, name, given).ratio()
