"""Opens pages in a headless Chromium of the system, and does in them what a reader does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The path of the browser; None where there is none."""

_ERRORS = """<script>
const told = {errors: []};
addEventListener("error", (event) => told.errors.push(event.message));
addEventListener("unhandledrejection", (event) => told.errors.push(String(event.reason)));
console.error = console.warn = (...parts) => told.errors.push(parts.join(" "));
addEventListener("securitypolicyviolation", (event) => told.errors.push(`refused: ${event.blockedURI}`));
</script>
"""
_STEPS = """<script>
const press = (key, at = document.activeElement) =>
  at.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const type = (text) => { const at = document.activeElement; at.value = text; at.dispatchEvent(new Event("input")); };
const count = (selector) => document.querySelectorAll(selector).length;
const text = (id) => document.getElementById(id).textContent;
addEventListener("load", async () => {
  try { %s } catch (error) { told.errors.push(String(error)); }
  const element = document.createElement("pre");
  element.id = "told";
  element.textContent = JSON.stringify(told);
  document.body.append(element);
});
</script>
"""


def driven(page: str, steps: str, folder: Path) -> dict[str, Any]:
    """Return what JavaScript wrote into `told` in a page, with the errors that came up.

    Args:
        page: the HTML.
        steps: JavaScript that presses keys and looks. It has ``press(key)``, ``type(text)``, ``count(selector)`` and
            ``text(id)``.
        folder: a folder for the page and the browser's own files.
    """
    assert BROWSER is not None
    path = folder / "page.html"
    page = page.replace("<style>", _ERRORS + "<style>", 1).replace("</body>", _STEPS % steps + "</body>", 1)
    path.write_text(page, encoding="utf-8")
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    told: dict[str, Any] = json.loads(unescape(found[1]))
    return told
