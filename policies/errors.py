"""What can be wrong with a policy, or with what one was asked to do."""


class PolicyError(ValueError):
    """A policy name, an option or a decision that breaks its contract; the message names value, rule and way out."""
