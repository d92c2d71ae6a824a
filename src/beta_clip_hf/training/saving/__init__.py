"""Checkpoints that are whole or absent, locks on output directories, and runs that resume as one run."""
