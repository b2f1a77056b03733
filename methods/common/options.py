"""The vocabulary of options."""

Bits = int
Share = float
Positive = float
Count = int
Whole = int
