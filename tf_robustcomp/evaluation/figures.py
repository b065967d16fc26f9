"""How the figures of evaluations look, and how they are saved."""

from pathlib import Path

from tf_robustcomp import files

STYLES = ("-", "--", ":", "-.")


def style(row, models):
    """Colour by the model, line style by the stage.

    Args:
        row: `results.Row`.
        models: labels in order.
    """
    return {"color": f"C{models.index(row.model) % 10}", "linestyle": STYLES[(row.stages - row.stage) % len(STYLES)]}


def models_in(rows):
    """Labels of the models in order."""
    return list(dict.fromkeys(row.model for row in rows))


def save(figure, prefix):
    """Write ``prefix.png`` and ``prefix.pdf`` and close the figure; the paths."""
    from matplotlib import pyplot as plt

    paths = [Path(f"{prefix}.png"), Path(f"{prefix}.pdf")]
    for path in paths:
        with files.replacing(path) as temporary:
            # Without a date the same figure is the same file.
            figure.savefig(temporary, dpi=150, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)
    plt.close(figure)
    return paths
