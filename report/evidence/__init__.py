"""Cells made from runs, and everything that follows from cells: means, losses, intervals, tests, points of plots."""
