"""What the simulator says of a real run, held against it: decisions, operations, composition, prediction."""
