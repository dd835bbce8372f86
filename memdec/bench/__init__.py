"""Benchmarks: each figure a ratio measured in one run. (Owner: the bench helper, see the contract.)"""
