"""From the settings of a run to its rows, its model and its Trainer: configurations, recipes, the plan."""
