"""What can stop a simulation before it starts."""


class Infeasible(Exception):  # noqa: N818 - a verdict about the hardware, not a fault of the program
    """Nothing to simulate: the model does not fit; the message says by how much, and what would help."""
