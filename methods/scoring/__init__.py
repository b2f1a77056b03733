"""Scoring: predictions in, percent out. Imports no torch."""
