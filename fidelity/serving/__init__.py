"""Whole serving runs: one replayed request by request, and Splitwise's over tensor-parallel degrees."""
