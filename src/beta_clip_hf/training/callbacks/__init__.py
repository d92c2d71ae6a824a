"""Callbacks of the Trainer: bounds, guards, logs of losses, the gallery."""
