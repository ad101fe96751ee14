"""Scripts that measure the project: speed, fidelity, hardware; and one that trains what tests measure quality on."""
