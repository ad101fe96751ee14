"""Power: kernels and runs with watts, the fit of the anchors, and how far off they are."""
