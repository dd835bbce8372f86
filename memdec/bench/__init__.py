"""Benchmarks: each figure a ratio measured in one run, beside the machine's measured ceiling."""
