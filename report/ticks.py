"""Round numbers for the axes of plots."""

import math


def tick_text(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def log_ticks(values: list[float]) -> list[float]:
    """Return 1, 2 and 5 times powers of ten that enclose all values."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    grid = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max(i for i, tick in enumerate(grid) if tick <= low * (1 + 1e-9))
    last = min(i for i, tick in enumerate(grid) if tick >= high * (1 - 1e-9))
    return [float(f"{tick:.12g}") for tick in grid[first : max(last, first + 1) + 1]]


def round_ticks(values: list[float]) -> list[float]:
    """Return three to six round numbers, 1, 2 or 5 times a power of ten apart, that enclose all values."""
    low, high = min(values), max(values)
    step = _round_step((high - low or abs(high) or 1) / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def ticks_within(low: float, high: float, intervals: int) -> list[float]:
    """Return the round numbers of a range, in about so many steps; the range's ends need not be round."""
    step = _round_step((high - low) / intervals)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _round_step(rough: float) -> float:
    """Return the least of 1, 2 and 5 times a power of ten that is not below a rough step."""
    power = 10 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
