"""Programs beside the simulator: its speed, how near it comes to what others measured, tiny models to test with."""
