"""Published benchmarks: the list of all, and a reader for the files of each."""

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
