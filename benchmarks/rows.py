"""A line of the benchmarks' table."""


def row(what, value, unit="", goal=""):
    """What was measured, as the table and ``results.json`` have it.

    Args:
        what: in words.
        value: float.
        unit: of it; ratios have none.
        goal: it is to be met, such as ">= 1", if there is one.
    """
    return {"what": what, "value": float(value), "unit": unit, "goal": goal}
