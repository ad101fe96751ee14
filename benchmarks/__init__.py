"""Programs beside the simulator: its speed, how near it comes to what others measured, the tiny models of tests/data."""
