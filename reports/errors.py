"""What goes wrong with a run directory, said in one sentence a person can act on."""


class ReportError(ValueError):
    """A run directory or one of its files is not what the contract says; the message says which, why and what to do."""
