"""Joules of a device over a stretch of time, and how they were come by."""
