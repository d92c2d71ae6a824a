"""Rows of any source, turned into batches; and the generated scenes."""
