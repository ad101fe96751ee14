"""Plotly figures of the report: one module per question, each function from a run's files to a `style.Figure`."""
