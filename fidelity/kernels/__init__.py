"""Kernel tables: one schema, readers of published ones, and the fit that the generic stack is made of."""
