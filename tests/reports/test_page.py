"""The page: whole in itself, and looked at in a real browser where there is one."""

import re
import shutil
import struct
import subprocess

import pytest

from rlora.reports.__main__ import main

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here (Debian: apt install chromium)"
)
CLICK = """<script type="module">
const title = [...document.querySelectorAll("thead th")].find((each) => each.textContent === "NAME");
for (let i = 0; i < TIMES; i++) title.click();
</script>"""


@pytest.fixture
def page(study, tmp_path):
    main([str(study), "--html", str(tmp_path / "report.html"), "--title", "Adapters <compared>"])
    return tmp_path / "report.html"


def browse(page, *words):
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=10000",
        *words,
    ]
    place = [f"--user-data-dir={page.parent / 'profile'}", "--enable-logging=stderr", page.as_uri()]
    return subprocess.run(
        [*command, *place], capture_output=True, text=True, timeout=120, check=True
    )


def test_it_needs_no_network_and_holds_every_table(page):
    text = page.read_text()
    without_scripts = re.sub(r'<script type="module">.*?</script>', "", text, flags=re.DOTALL)
    assert "<script" not in without_scripts
    assert not re.search(r"\b(src|href)=|url\(|@import", without_scripts)
    assert "Adapters &lt;compared&gt;" in text
    assert "81.0 ± 1.0" in text
    assert text.count("<thead>") == 3
    assert len(text) < 2**20


@needs_browser
def test_charts_are_drawn_without_an_error(page):
    done = browse(page, "--dump-dom")
    assert "CONSOLE" not in done.stderr
    assert 'data-charts="3"' in done.stdout
    drawn = re.findall(
        r'<div id="chart\d"[^>]*>.*?<(canvas|svg)[^>]* width="(\d+)" height="(\d+)"',
        done.stdout,
        re.DOTALL,
    )
    assert len(drawn) == 3
    assert all(int(width) > 200 and int(height) > 100 for _, width, height in drawn)


@needs_browser
@pytest.mark.parametrize(
    ("name", "times", "order"),
    [
        ("rte", 1, ["rlora", "lora", "head"]),
        ("rte", 2, ["head", "lora", "rlora"]),
        ("trained", 1, ["lora", "rlora", "head"]),
        ("adapter", 1, ["rlora", "lora", "head"]),
    ],
)
def test_a_click_sorts(page, name, times, order):
    page.write_text(page.read_text() + CLICK.replace("NAME", name).replace("TIMES", str(times)))
    shown = browse(page, "--dump-dom").stdout
    first = shown[shown.index("<tbody>") : shown.index("</tbody>")]
    assert re.findall(r'<td class="word[^"]*">(\w+)</td>', first) == order


@needs_browser
def test_it_is_not_blank(page, tmp_path):
    browse(page, "--window-size=1200,2000", f"--screenshot={tmp_path / 'page.png'}")
    image = (tmp_path / "page.png").read_bytes()
    assert struct.unpack(">II", image[16:24]) == (1200, 2000)
    assert len(image) > 40_000
