"""Turns samples into what is reported: quantiles, and enough points to draw the distribution."""

from __future__ import annotations

from collections.abc import Sequence


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank quantile of sorted samples: a value that really occurred."""
    if not ordered:
        raise ValueError("no samples")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(samples_ns: Sequence[int]) -> dict[str, object]:
    """Return count, quantiles in milliseconds, and the curve at each percent."""
    ordered = [value / 1e6 for value in sorted(samples_ns)]
    named = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    rows: dict[str, object] = {k: round(quantile(ordered, share), 4) for k, share in named.items()}
    rows["count"] = len(ordered)
    rows["curve"] = [round(quantile(ordered, percent / 100), 4) for percent in range(101)]
    return rows
