"""The HTML page: it is self-contained, and renders in a real browser if one is installed."""

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
    BROWSER is None, reason="Chromium is not installed (Debian: apt install chromium)"
)
CLICK = """<script type="module">
const titles = [...document.querySelectorAll("thead th")];
const title = titles.find((item) => item.textContent.trim() === "NAME");
for (let i = 0; i < TIMES; i++) title.click();
</script>"""


@pytest.fixture(scope="module")
def built():
    """The page, once a test has built it: all tests look at the same one."""
    return {}


@pytest.fixture
def page(built, study_folder, tmp_path):
    file = tmp_path / "report.html"
    if not built:
        main([str(study_folder), "--html", str(file), "--title", "Adapters <compared>"])
        built["html"] = file.read_text()
    file.write_text(built["html"])
    return file


def browse(page, *arguments):
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=10000",
        *arguments,
    ]
    options = [
        f"--user-data-dir={page.parent / 'profile'}",
        "--enable-logging=stderr",
        page.as_uri(),
    ]
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=120, check=True
    )


def test_the_page_needs_no_network_and_holds_every_table(page):
    text = page.read_text()
    without_scripts = re.sub(r'<script type="module">.*?</script>', "", text, flags=re.DOTALL)
    assert "<script" not in without_scripts
    assert not re.search(r"\b(src|href)=|url\(|@import", without_scripts)
    assert "Adapters &lt;compared&gt;" in text
    assert "81.0 ± 1.0" in text
    assert text.count("<thead>") == 3
    assert len(text) < 2**20


@needs_browser
def test_charts_render_without_an_error(page):
    result = browse(page, "--dump-dom")
    assert "CONSOLE" not in result.stderr
    assert 'data-charts="7"' in result.stdout  # mean and two tasks; time and memory of two tasks
    charts = re.findall(
        r'<svg xmlns[^>]* class="marks" width="(\d+)" height="(\d+)"', result.stdout
    )
    assert len(charts) == 7
    assert all(int(width) > 200 and int(height) > 90 for width, height in charts)


@needs_browser
@pytest.mark.parametrize(
    ("name", "times", "order"),
    [
        ("RTE (accuracy)", 1, ["RLoRA", "LoRA", "head only"]),
        ("RTE (accuracy)", 2, ["head only", "LoRA", "RLoRA"]),
        ("trainable parameters (adapter)", 1, ["LoRA", "RLoRA", "head only"]),
        ("adapter", 1, ["RLoRA", "LoRA", "head only"]),
    ],
)
def test_a_click_on_a_column_title_sorts_the_table(page, name, times, order):
    page.write_text(page.read_text() + CLICK.replace("NAME", name).replace("TIMES", str(times)))
    html = browse(page, "--dump-dom").stdout
    first = html[html.index("<tbody>") : html.index("</tbody>")]
    assert re.findall(r'<td class="text[^"]*">([\w ]+)</td>', first) == order


@needs_browser
def test_the_page_is_not_blank(page, tmp_path):
    browse(page, "--window-size=1200,2000", f"--screenshot={tmp_path / 'page.png'}")
    image = (tmp_path / "page.png").read_bytes()
    assert struct.unpack(">II", image[16:24]) == (1200, 2000)
    assert len(image) > 40_000


@needs_browser
@pytest.mark.parametrize("width", [500, 1400])
def test_the_page_is_as_wide_as_its_window(page, width):
    """Only tables scroll sideways; 500 is the narrowest window of a desktop browser."""
    script = """<script type="module">
    await new Promise((resolve) => setTimeout(resolve, 3000));
    const ends = [...document.querySelectorAll(".chart")]
      .map((each) => each.getBoundingClientRect().right);
    document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
    document.body.dataset.right = Math.max(...ends);
    </script>"""
    page.write_text(page.read_text() + script)
    html = browse(page, f"--window-size={width},900", "--dump-dom").stdout
    assert 'data-overflow="0"' in html or 'data-overflow="-' in html
    right = float(re.search(r'data-right="([\d.]+)"', html)[1])
    assert 0.9 * width < right <= width


@needs_browser
def test_a_click_on_a_name_highlights_it_in_all_charts(page):
    script = """<script type="module">
    while (!document.body.dataset.charts) await new Promise((resolve) => setTimeout(resolve, 50));
    document.querySelector(".legend button[value=LoRA]").click();
    await new Promise((resolve) => setTimeout(resolve, 500));
    const bars = [...document.querySelectorAll(".mark-rect.role-mark path")];
    document.body.dataset.dimmed = bars.filter((each) => each.getAttribute("opacity") < 1).length;
    document.body.dataset.bars = bars.length;
    </script>"""
    page.write_text(page.read_text() + script)
    html = browse(page, "--dump-dom").stdout
    assert 'data-bars="12"' in html  # three adapters, two tasks, time and memory
    assert 'data-dimmed="8"' in html
