"""The page in a real browser: it loads, its script runs, and it fits a phone."""

import re
import shutil
import subprocess

import pytest

from memdec.results.report import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# Reports through the document's title what only a browser knows.
PROBE = """<script>addEventListener("load", () => {
  const root = document.documentElement;
  document.title = "probe " + root.scrollWidth + " of " + innerWidth;
});</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")


@pytest.fixture
def page(make_facts, save, tmp_path):
    tokens = [
        {"text": "</b>", "lm": -2.0, "mixture": -1.0, "lm_top": [["<i>", 0.5]], "memory_top": []},
        {"text": " b", "lm": -1.0, "mixture": -0.5, "lm_top": [], "memory_top": [[" b", 0.75]]},
    ]
    wide = {f"a-long-setting-{i}": i for i in range(3)}
    save(make_facts(20.0))
    path = save(
        make_facts(15.0, method="memory_decoder", config=wide, examples=[{"tokens": tokens}])
    )
    build_report(path.parent, tmp_path / "out", tmp_path / "none", tmp_path / "none")
    return tmp_path / "out/index.html"


def dom(page, tmp_path, address="", width=1280):
    page.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
    done = subprocess.run(
        [
            *(CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"),
            *(f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom"),
            f"{page.as_uri()}{address}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_a_token_of_the_address_shows_what_both_models_expected(page, tmp_path):
    loaded = dom(page, tmp_path, "#text0-0")
    tip = re.search(r'<aside id="tip"[^>]*>(.*?)</aside>', loaded, re.DOTALL)
    assert tip
    assert "hidden" not in tip[0].split(">")[0]
    assert "14%" in tip[1]  # exp(-2)
    assert "37%" in tip[1]  # exp(-1)
    assert "&lt;/b&gt;" in tip[1]  # text of a token never becomes markup
    assert "&lt;i&gt;" in tip[1]


def test_without_a_token_the_tip_stays_hidden(page, tmp_path):
    assert re.search(r'<aside id="tip" hidden', dom(page, tmp_path))


@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_never_scrolls_sideways(page, tmp_path, width):
    probe = re.search(r"<title>probe (\d+) of (\d+)</title>", dom(page, tmp_path, width=width))
    assert probe
    assert int(probe[1]) <= int(probe[2])
