"""What can be wrong with what the engine was given."""


class EngineError(ValueError):
    """The engine cannot do what it was asked; one sentence: the thing, its value, the rule, the way out."""


class CheckpointError(EngineError):
    """A checkpoint is damaged, incomplete or of an unknown kind; the text names the file and the tensor."""
