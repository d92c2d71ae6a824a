"""One small reader per format. Each is a `SourceFormat`, see `source.py`."""
