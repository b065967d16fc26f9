"""Check the links of the built site, without a network: every page, anchor, picture, script and style must be in it.

    python tools/check_site.py build/docs/html

Links to other sites are counted and not followed.  Exit code 1 where a link is dead, or where a page would load a file
from elsewhere, which a reader without a network would miss.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "object": "data"}
STYLES = {"stylesheet", "icon", "preload"}


class Page(HTMLParser):
    """Links, anchors and loaded files of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.pictures_without_text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag names, links to or loads."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and "href" in values and STYLES & set(values.get("rel", "").split()):
            self.loaded.append(values["href"])
        if tag in LOADED and LOADED[tag] in values:
            self.loaded.append(values[LOADED[tag]])
        if tag == "img" and not values.get("alt", "").strip():
            self.pictures_without_text.append(values.get("src", "")[:80])


def problems(site: Path) -> tuple[list[str], dict[str, int]]:
    """Return what is wrong with a site, a line each, and how much was looked at."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    wrong, counts = [], {"pages": len(pages), "links": 0, "links to other sites": 0, "loaded files": 0}
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        wrong += [f"{where}: a picture without a text: {name}" for name in page.pictures_without_text]
        for kind, links in (("links", page.links), ("loaded files", page.loaded)):
            for link in links:
                parts = urlsplit(link)
                if parts.scheme or parts.netloc:
                    if kind == "loaded files" and parts.scheme != "data":
                        wrong.append(f"{where}: loads {link[:100]} from elsewhere")
                    counts["links to other sites"] += parts.scheme in ("http", "https")
                    continue
                counts[kind] += 1
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                if not target.is_file():
                    wrong.append(f"{where}: {link} is not there")
                elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                    wrong.append(f"{where}: {link} names no place of that page")
    return wrong, counts


def main(argv: list[str] | None = None) -> int:
    """Print what is wrong, and what was looked at."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) != 1 or not Path(words[0]).is_dir():
        print(f"check_site: the argument must be the folder of a built site. Received: {words}", file=sys.stderr)
        return 2
    wrong, counts = problems(Path(words[0]))
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(", ".join(f"{count} {name}" for name, count in counts.items()) + f"; {len(wrong)} problems")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
