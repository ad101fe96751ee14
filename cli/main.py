"""The three scripts, `afterwatt`, `simulate` and `validate`, and what their errors turn into.

0 done, 2 bad input or usage, 3 infeasible, 130 interrupted; one sentence on standard error for each that is the user's
to mend. Anything else is a fault of ours and keeps its traceback.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import typer

from afterwatt.cli import (
    breakeven,
    calibrate,
    doctor,
    evaluate,
    fit,
    flags,
    generate,
    hw,
    model,
    policy,
    prepare,
    report,
    trace,
    validate,
)
from afterwatt.cli.errors import BAD_INPUT, DONE, INTERRUPTED, exit_code_of, sentence_of
from afterwatt.cli.help import Sectioned
from afterwatt.cli.simulate import simulate
from afterwatt.studies.errors import OptionError

Commands = tuple[str, Mapping[str, Callable[..., Any]]]
GROUPS: Final[Mapping[str, Commands]] = {
    "trace": trace.COMMANDS,
    "hw": hw.COMMANDS,
    "model": model.COMMANDS,
    "policy": policy.COMMANDS,
}
EXIT_CODES: Final = "Exit codes: 0 done, 2 bad input, 3 infeasible, 4 bound exceeded (validate), 130 interrupted."
VALIDATE_CODES: Final = "Exit codes: 0 done, 2 bad input, 3 infeasible, 4 a stated bound is passed, 130 interrupted."
ABOUT: Final = """Afterwatt: what would these GPUs, old or new, carry?

Latency, energy, cost and carbon of serving language models, simulated from a request trace.
"""


def _first(version: flags.Version = False) -> None:
    pass


def simulate_app() -> typer.Typer:
    """Give the script `simulate`."""
    app = _typer()
    app.command("simulate", cls=Sectioned, epilog=EXIT_CODES)(simulate)
    return app


def validate_app() -> typer.Typer:
    """Give the script `validate`."""
    app = _typer()
    app.command("validate", cls=Sectioned, epilog=VALIDATE_CODES)(validate.validate)
    return app


def afterwatt_app() -> typer.Typer:
    """Give the script `afterwatt`."""
    app = _typer(ABOUT)
    app.callback(help=ABOUT)(_first)
    app.command("simulate", cls=Sectioned, epilog=EXIT_CODES)(simulate)
    app.command("report", cls=Sectioned)(report.report)
    app.command("breakeven", cls=Sectioned)(breakeven.breakeven)
    app.command("calibrate", cls=Sectioned, epilog=EXIT_CODES)(calibrate.calibrate)
    app.command("generate", cls=Sectioned, epilog=EXIT_CODES)(generate.generate)
    app.command("validate", cls=Sectioned, epilog=VALIDATE_CODES)(validate.validate)
    app.command("doctor", cls=Sectioned)(doctor.doctor)
    app.command("fit", cls=Sectioned, epilog=EXIT_CODES)(fit.fit)
    app.command("evaluate", cls=Sectioned, epilog=EXIT_CODES)(evaluate.evaluate)
    app.command("prepare", cls=Sectioned, epilog=EXIT_CODES)(prepare.prepare)
    for name, (about, commands) in GROUPS.items():
        group = _typer(about, add_completion=False)
        for command, function in commands.items():
            group.command(command, cls=Sectioned)(function)
        app.add_typer(group, name=name)
    return app


def _typer(help: str | None = None, add_completion: bool = True) -> typer.Typer:  # noqa: A002 - typer's word
    return typer.Typer(
        help=help,
        add_completion=add_completion,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a script and give its exit code; errors that are the user's to mend are printed.

    Args:
        app: the script.
        arguments: as typed; None takes those of the process.
    """
    command = typer.main.get_command(app)
    try:
        _check_words(sys.argv[1:] if arguments is None else arguments)
        code = command.main(args=None if arguments is None else list(arguments), standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as fault:
        found = exit_code_of(fault)
        if found is None:
            raise
        if type(fault).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{fault}\n")
            return BAD_INPUT
        sys.stderr.write(f"error: {sentence_of(fault)}\n")
        return found
    if code == INTERRUPTED:
        sys.stderr.write("interrupted; nothing half-written is left\n")
    return code if isinstance(code, int) else DONE


def _check_words(words: Sequence[str]) -> None:
    """Refuse words that are no UTF-8, such as a name in another encoding: no page or manifest could hold them."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise OptionError(f"{word!r} is no UTF-8, and could not be written down; rename it") from None


def main() -> NoReturn:
    """`afterwatt`."""
    _end(afterwatt_app())


def simulate_main() -> NoReturn:
    """`simulate`."""
    _end(simulate_app())


def validate_main() -> NoReturn:
    """`validate`."""
    _end(validate_app())


def _end(app: typer.Typer) -> NoReturn:
    """Run a script as a process of its own: told to terminate, it leaves no more behind than on Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.set_threshold(100_000)  # what starts makes many objects and no garbage
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it would read every installed package's metadata
    sys.exit(run(app))


if __name__ == "__main__":
    main()
