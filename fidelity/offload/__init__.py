"""Published speeds of models that their cards do not hold: table, times, and the fit of what hosts reach."""
