"""The sections of benchmarks/gpu.py: functions of a [`bench.Bench`] that return their numbers, ready for JSON."""
