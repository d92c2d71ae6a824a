"""Training: the Trainer, its arguments, the gather across processes and the command `beta-clip train`."""
