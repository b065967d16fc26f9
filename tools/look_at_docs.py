"""Take pictures of every page of the built site in headless Chromium: wide and narrow, light and dark.

    python tools/look_at_docs.py build/docs/html build/docs/look [--pages docs/start docs/index]

It also says which pages are wider than the window, and what they ask the network for.  Chromium must be installed
(``apt-get install chromium``), or named by the variable CHROMIUM.
"""

import argparse
import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

WIDTHS = (1280, 400)
MODES = ("light", "dark")
TALLEST = 4000  # pixels of a picture
BIGGEST = 200 * 2**20  # bytes of a message of the browser


class Tab:
    """One page of a browser, driven by its debugging protocol."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self.connection, self.number, self.events = connection, 0, list[dict[str, Any]]()

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command; return its result."""
        self.number += 1
        await self.connection.write_message(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = await self.read()
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]

    async def read(self) -> dict[str, Any]:
        """Return the next message; keep it where it is an event."""
        text = await self.connection.read_message()
        if text is None:
            raise RuntimeError("the browser has gone")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    async def load(self, url: str) -> list[str]:
        """Load a page; return what it asked the network for."""
        self.events.clear()
        await self.ask("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            await self.read()
        sent = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith(("file:", "data:"))]

    async def value(self, expression: str) -> Any:
        """Return what a line of JavaScript gives."""
        return (await self.ask("Runtime.evaluate", expression=expression, returnByValue=True))["result"].get("value")


async def pictures(port: int, site: Path, names: list[str], out: Path) -> list[str]:
    """Write the pictures; return remarks."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new", method="PUT")
    with urllib.request.urlopen(request) as answer:
        address = json.load(answer)["webSocketDebuggerUrl"]
    tab = Tab(await websocket_connect(address, max_message_size=BIGGEST))
    remarks = []
    for domain in ("Page", "Network", "Runtime"):
        await tab.ask(f"{domain}.enable")
    for name in names:
        asked = await tab.load((site / name).as_uri())
        remarks += [f"{name} asks the network for {url}" for url in asked]
        for width in WIDTHS:
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            await tab.ask("Emulation.setDeviceMetricsOverride", **size)
            wide = await tab.value("document.documentElement.scrollWidth")
            if wide > width:
                remarks.append(f"{name} is {wide} pixels wide in a window of {width}")
            high = min(await tab.value("document.documentElement.scrollHeight"), TALLEST)
            clip = {"x": 0, "y": 0, "width": width, "height": high, "scale": 1}
            for mode in MODES:
                features = [{"name": "prefers-color-scheme", "value": mode}]
                await tab.ask("Emulation.setEmulatedMedia", features=features)
                shot = await tab.ask("Page.captureScreenshot", format="jpeg", clip=clip, captureBeyondViewport=True)
                file = f"{name.removesuffix('.html').replace('/', '-')}-{width}-{mode}.jpg"
                (out / file).write_bytes(base64.b64decode(shot["data"]))
    return remarks


def browser(folder: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start Chromium; return it and its port."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        raise SystemExit("look_at_docs: Chromium must be installed, or named by CHROMIUM")
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
    process = subprocess.Popen([program, *words, f"--user-data-dir={folder}"], stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if b"DevTools listening on" in line:
            return process, int(line.split(b"127.0.0.1:")[1].split(b"/")[0])
    raise SystemExit("look_at_docs: Chromium did not start")


def main(argv: list[str] | None = None) -> int:
    """Write the pictures, and print the remarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pages", nargs="*", help="without .html; default: all but the index of names and the search")
    words = parser.parse_args(argv)
    site = words.site.resolve()
    found = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
    names = [f"{name}.html" for name in words.pages or []] or [
        name for name in found if name not in ("genindex.html", "search.html", "index.html", "py-modindex.html")
    ]
    words.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process, port = browser(folder)
        try:
            remarks = asyncio.run(pictures(port, site, names, words.out))
        finally:
            process.terminate()
            process.wait()
    print(*remarks, sep="\n", end="\n" if remarks else "")
    print(
        f"{len(names)} pages, {len(names) * len(WIDTHS) * len(MODES)} pictures in {words.out}; {len(remarks)} remarks"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
