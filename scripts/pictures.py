"""Make docs/pictures/report.png, the picture of the README: what a browser shows of the demo's report.

``python scripts/pictures.py [FOLDER]`` runs ``segflow demo`` in a folder, if it is not finished there, and needs the
package playwright with a Chromium.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

TARGET = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "report.png"
RUN = "outputs/Dataset001_Phantom/demoPlans/3d_fullres/default/fold_0"
WIDTH, HEIGHT = 1280, 1060
COLOURS = 128
TOP = "#cases"
"""What stands at the top of the picture."""


def main(folder: Path) -> None:
    for words in (["demo"], ["report", f"run={RUN}"]):
        subprocess.run([sys.executable, "-m", "segflow", *words], cwd=folder, check=True)
    page_file = max(folder.glob("outputs/**/report.html"), key=lambda file: file.stat().st_mtime)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(page_file.as_uri())
        page.wait_for_timeout(3000)  # images are drawn
        if page.locator(TOP).count():
            page.locator(TOP).first.evaluate("element => element.scrollIntoView()")
            page.wait_for_timeout(1000)
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").quantize(COLOURS).save(TARGET, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    if sys.argv[1:]:
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
