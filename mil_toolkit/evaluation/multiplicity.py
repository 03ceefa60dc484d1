"""Many comparisons at once: adjusted p-values."""

from collections.abc import Mapping


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the p-values adjusted for their number (Holm 1979); None stays None and does not count.

    An adjusted p-value below 0.05 is significant at 5 % for the whole family.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    {'a': 0.03, 'b': 0.06, 'c': 0.06, 'd': None}
    """
    known = sorted((value, name) for name, value in p_values.items() if value is not None)
    adjusted, largest = dict[str, float | None].fromkeys(p_values), 0.0
    for place, (value, name) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - place)))
        adjusted[name] = largest
    return adjusted
