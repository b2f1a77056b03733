"""Benchmarks of this machine: contenders take turns in one process, and their medians are compared as ratios.

The speed of a machine wanders, quotients of one process much less.
"""
