"""Benchmarks as they are published: which there are, and a reader for each one's own files."""

from .layout import count_rows
from .loading import Part, Reading, load_benchmark
from .registry import BENCHMARKS, Benchmark, benchmark_table, find_benchmark, format_benchmarks


__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Part",
    "Reading",
    "benchmark_table",
    "count_rows",
    "find_benchmark",
    "format_benchmarks",
    "load_benchmark",
]
