"""The benchmarks' table, a row at a time."""


def row(what, value, unit="", goal=""):
    """One measured value, as the table and ``results.json`` have it.

    Args:
        what: in words.
        value: float.
        unit: of it; ratios have none.
        goal: it is to be met, such as ">= 1", if there is one.
    """
    return {"what": what, "value": float(value), "unit": unit, "goal": goal}


def show(rows):
    """Print rows as one table."""
    width = max((len(row["what"]) for row in rows), default=0)
    for row in rows:
        goal = f"   goal {row['goal']}" if row["goal"] else ""
        print(f"{row['what']:<{width}}  {row['value']:>10.4g} {row['unit']}{goal}")
