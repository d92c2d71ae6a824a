"""The study: many ways to train on generated scenes, at equal data, order, steps and optimiser. See docs/study.md."""
