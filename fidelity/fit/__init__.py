"""The stacks' free parameters, fitted to points: effects that lean on their relatives, and how far off they are."""
