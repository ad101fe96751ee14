"""Programs that measure the simulator itself: its speed, and how near it comes to what others measured; and one that trains
the tiny models in tests/data."""
