"""Converts checkpoints, exports models, writes their model cards and uploads them to the Hub."""
