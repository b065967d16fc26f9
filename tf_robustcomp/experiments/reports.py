"""Write a study's report: Markdown, and one self-contained page of HTML made from it."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tf_robustcomp.experiments.records import Record
from tf_robustcomp.utils import files

STYLE = (
    ":root{color-scheme:light dark;--line:#ccc;--code:#f4f4f4}"
    "@media(prefers-color-scheme:dark){:root{--line:#555;--code:#2a2a2a}body{background:#181818;color:#e4e4e4}"
    "a{color:#8ab4f8}}"
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "img{max-width:100%;background:#fff}.scroll{overflow-x:auto}"
    "table{border-collapse:collapse}td,th{border:1px solid var(--line);padding:.2em .6em}"
    "code{background:var(--code)}pre{background:var(--code);padding:.6em;overflow-x:auto}"
)
NAMES = ("report.md", "report.html")
NUMBER = re.compile(r"^(-|[+-]?[\d.,]+( ± [\d.,]+)?( %)?( \([\d.-]+\))?)$")
IMAGE = re.compile(r'src="([^":]+\.png)"')


def write(folder: Path, text: str) -> list[Path]:
    """Write ``report.md`` and from it ``report.html``, with its pictures inside.

    Args:
        folder: of the study; pictures in the text are relative to it.
        text: Markdown that begins with ``# title``.

    Returns:
        their paths.
    """
    import markdown

    title = html.escape(text.split("\n", 1)[0].lstrip("# "))
    body = IMAGE.sub(
        lambda match: f'src="{_inline(folder / match[1])}"',
        markdown.markdown(text, extensions=["tables", "fenced_code"]),
    )
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    page = f'<!doctype html><html lang="en">{head}<title>{title}</title><style>{STYLE}</style>{body}'
    paths = [folder / name for name in NAMES]
    for path, content in zip(paths, (text, page), strict=True):
        files.write_text(path, content)
    return paths


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table, numbers to the right.

    Args:
        header: names of the columns.
        rows: lists of as many values; floats are shown with four digits.
    """
    rows = [[_shown(value) for value in row] for row in rows]
    rules = ["---:" if rows and all(NUMBER.match(row[i]) for row in rows) else "---" for i in range(len(header))]
    lines = [list(header), rules, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def measured(value: float, error: float | None = None) -> str:
    """Return a value with its standard error, where there is one."""
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def runs(records: Sequence[Record]) -> str:
    """Return the last section of a report: every task with its command and time, as Markdown."""
    rows = [[one.name, tqdm.format_interval(one.seconds), f"`{'; '.join(one.commands)}`"] for one in records]
    total = tqdm.format_interval(sum(one.seconds for one in records))
    return (
        "## Runs\n\nCommands as typed in the study's folder; `runs.json` has flags, settings, versions and measured "
        f"values.\n\nAll times together: {total}.\n\n" + table(["run", "time", "command"], rows)
    )


def _inline(path):
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
