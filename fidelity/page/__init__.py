"""What is said of all this: an assessment, as text and as the fidelity page with its figure."""
