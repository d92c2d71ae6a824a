"""Evaluation: metrics as pure functions, probes that take from a model what they measure, and the suite of tasks."""
