"""Markdown to one self-contained page of HTML; tables and the list of runs for it."""

import base64
import html
import re
from pathlib import Path

from tqdm import tqdm

from tf_robustcomp import files

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}img{max-width:100%}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}"
    "code{background:#f4f4f4}pre{background:#f4f4f4;padding:.6em;overflow-x:auto}"
)
NAMES = ("report.md", "report.html")
IMAGE = re.compile(r'src="([^":]+\.png)"')


def write(folder, text):
    """Write ``report.md`` and from it ``report.html``, with its pictures inside; their names.

    Args:
        folder: of the study; pictures in the text are relative to it.
        text: Markdown that begins with ``# title``.
    """
    import markdown

    folder = Path(folder)
    title = html.escape(text.split("\n", 1)[0].lstrip("# "))
    body = IMAGE.sub(
        lambda match: f'src="{_inline(folder / match[1])}"',
        markdown.markdown(text, extensions=["tables", "fenced_code"]),
    )
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>{body}'
    for name, content in zip(NAMES, (text, page), strict=True):
        files.write_text(folder / name, content)
    return NAMES


def table(header, rows):
    """A Markdown table.

    Args:
        header: names of the columns.
        rows: lists of as many values; floats are shown with four digits.
    """
    lines = [list(header), ["---"] * len(header), *([_shown(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def runs(tasks, folder):
    """Every task with its command and time, as Markdown."""
    records = [task.record(folder) for task in tasks]
    rows = [
        [task.name, tqdm.format_interval(record["seconds"]) if record else "-", f"`{'; '.join(task.commands())}`"]
        for task, record in zip(tasks, records, strict=True)
    ]
    total = tqdm.format_interval(sum(record["seconds"] for record in records if record))
    return f"All times together: {total}.\n\n" + table(["run", "time", "command"], rows)


def _inline(path):
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
