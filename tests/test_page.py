"""The page in a real browser, from disk: it sorts, filters, draws, switches, and asks nobody for anything."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from report_fixture import (
    Made,
    data_files,
    fail,
    finish_all,
    finish_evaluate,
    finish_trial,
    make,
    make_run,
    make_search,
)

from jobs.storage import Storage
from jobs.task import Task
from pipeline.report import build
from pipeline.report.collect import collect
from pipeline.report.page import run_page

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
EVIL = "<img src=x onerror=alert(1)>"


def _make(root: Path, language: str = "en") -> Made:
    data = data_files(root / "data")
    runs = (
        make_run(data, group="baseline", name="MLP", reference={"test_balanced_accuracy": 0.447}),
        make_run(data, group="baseline", name="CNN", architecture="cnn"),
        make_run(data, group="baseline", name=EVIL, architecture="rnn"),
        make_run(data, group="baseline", name="late", dropout=0.1),
        *(make_run(data, group="width", name=f"w{n}", hidden_layers=[64 + n]) for n in range(15)),
    )
    space = {"dropout": {"uniform": [0.0, 0.5]}}
    made = make(root, runs=runs, searches=(make_search(data, name="search", space=space, trials=3),), language=language)
    finish_all(made, {"MLP": 0.45, "CNN": 0.7, EVIL: 0.8} | {f"w{n}": 0.3 + 0.04 * n for n in range(15)})
    late = next(row for row in made.plan.rows if row.run == "late")
    fail(made, late.train or "", "out of memory", f"killed {EVIL}", epochs=2)
    shutil.rmtree(made.storage.run(late.evaluate))
    for number in range(3):
        finish_trial(made, 0, number, skill=0.3 + 0.1 * number)
    finish_evaluate(made, made.plan.rows[-1].evaluate, skill=0.6)
    (made.storage.run(made.plan.rows[0].train or "") / "log.txt").write_text(f"epoch 1 {EVIL}\n")
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _make(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def report(made: Made) -> Path:
    return build(made.plan, made.states, mlflow=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip("Debian's chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Seen:
    """A page and everything it said or asked for."""

    page: Page
    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, path: Path) -> Page:
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("dialog", lambda dialog: self.troubles.append("a dialog opened"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        return self.page

    def check(self) -> None:
        assert self.troubles == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []


@pytest.fixture
def seen(browser: Browser) -> Iterator[Seen]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    seen = Seen(page)
    yield seen
    page.close()
    seen.check()


def _column(page: Page, key: str) -> list[str]:
    table = page.locator("#content section", has=page.locator("h2", has_text="width")).locator(
        "table[data-name=metrics]"
    )
    keys = table.locator("thead th").evaluate_all("cells => cells.map(cell => cell.dataset.key)")
    rows = table.locator("tbody tr:visible")
    found: list[str] = rows.evaluate_all("(rows, at) => rows.map(row => row.cells[at].textContent)", keys.index(key))
    return found


def _sort(page: Page, key: str) -> None:
    section = page.locator("#content section", has=page.locator("h2", has_text="width"))
    section.locator(f"table[data-name=metrics] th[data-key={key}] button").click()


def test_tables_sort_by_number_both_ways(seen: Seen, report: Path) -> None:
    page = seen.open(report / "index.html")
    _sort(page, "test_balanced_accuracy")
    falling = [float(text) for text in _column(page, "test_balanced_accuracy")]
    assert falling == sorted(falling, reverse=True)
    assert len(falling) == 15
    header = page.locator("th[aria-sort]")
    assert header.get_attribute("aria-sort") == "descending"
    _sort(page, "test_balanced_accuracy")
    rising = [float(text) for text in _column(page, "test_balanced_accuracy")]
    assert rising == sorted(rising)


def test_tables_sort_names_as_people_count(seen: Seen, report: Path) -> None:
    page = seen.open(report / "index.html")
    _sort(page, "run")
    assert [text.rstrip(" ★") for text in _column(page, "run")] == [f"w{n}" for n in range(15)]


def test_tables_filter_and_say_how_many_are_left(seen: Seen, report: Path) -> None:
    page = seen.open(report / "index.html")
    section = page.locator("#content section", has=page.locator("h2", has_text="width"))
    box = section.locator(".table", has=page.locator("table[data-name=metrics]"))
    box.locator("input").fill("w1")
    assert sorted(text.rstrip(" ★") for text in _column(page, "run")) == sorted(["w1", *(f"w1{n}" for n in range(5))])
    assert box.locator(".count").text_content() == "6 of 15 rows"
    box.locator("input").fill("")
    assert len(_column(page, "run")) == 15


def test_curves_switch_off_and_on_and_tell_their_values(seen: Seen, report: Path) -> None:
    page = seen.open(report / "index.html")
    figure = page.locator("figure.curves").first
    drawn = figure.locator(".panels path[data-run='MLP']")
    assert drawn.count() == 4
    button = figure.locator(".legend button", has_text="MLP")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert drawn.count() == 0
    assert button.get_attribute("aria-pressed") == "false"
    figure.locator(".legend button", has_text="show all").click()
    assert drawn.count() == 4
    figure.locator(".panels svg").nth(1).hover(position={"x": 300, "y": 100})
    tip = figure.locator(".tip")
    assert re.search(r"epoch \d.*0\.\d{3} .*, validation", tip.text_content() or "", re.DOTALL)


def test_of_many_runs_the_best_are_drawn_at_first(seen: Seen, report: Path) -> None:
    page = seen.open(report / "index.html")
    section = page.locator("#content section", has=page.locator("h2", has_text="width"))
    assert section.locator(".legend button[aria-pressed=true]").count() == 12
    section.locator(".legend button", has_text="show all").click()
    assert section.locator(".legend button[aria-pressed=true]").count() == 15
    section.locator(".legend button", has_text="hide all").click()
    assert section.locator(".panels path").count() == 0


def test_one_colour_a_run_throughout(seen: Seen, report: Path) -> None:
    page = seen.open(report / "index.html")
    figure = page.locator("figure.curves").first
    colours = figure.locator(".panels path[data-run='CNN']").evaluate_all(
        "paths => paths.map(p => p.getAttribute('stroke'))"
    )
    assert len(set(colours)) == 1
    page.locator("a", has_text="CNN").first.click()
    assert page.locator("figure.curves path[data-run='CNN']").first.get_attribute("stroke") == colours[0]
    assert colours[0] in (report / "plots/baseline-curves.svg").read_text()


def test_a_run_has_a_page_with_everything(seen: Seen, report: Path) -> None:
    page = seen.open(report / "index.html")
    page.locator("a", has_text="MLP").first.click()
    assert page.locator("h1").text_content() == "baseline / MLP"
    for heading in ("Figures", "Settings", "Curves", "Most frequent confusions", "Recall per category"):
        assert page.get_by_role("heading", name=heading).count() == 1
    assert page.locator("table.recall tbody tr").count() == 12
    page.locator("table.recall th button").nth(1).click()
    recalls = page.locator("table.recall tbody tr td:nth-of-type(1)").all_text_contents()
    assert [float(text) for text in recalls] == sorted((float(text) for text in recalls), reverse=True)
    page.locator(".table input").fill("category_ab")
    assert page.locator("table.recall tbody tr:visible").count() == 1
    assert EVIL in page.locator("#log + pre").inner_text()
    assert "python -m jobs" in page.locator("#reproduce ~ pre").inner_text()
    page.get_by_role("link", name="Back to the report").click()
    assert page.locator("h1").text_content() == "Results of demo"


def test_every_page_opens_without_a_word(seen: Seen, report: Path) -> None:
    for path in sorted((report / "runs").glob("*.html")):
        seen.open(path)
    assert len(list((report / "runs").glob("*.html"))) == 20


def test_a_failed_run_says_why_and_shows_what_there_is(seen: Seen, report: Path) -> None:
    page = seen.open(report / "index.html")
    assert "1 of 20 runs have no final figures yet (1 out of memory)" in page.locator(".completion").inner_text()
    page.locator("a", has_text="late").first.click()
    assert page.locator(".completion").inner_text() == f"out of memory: killed {EVIL}"
    assert page.locator("figure.curves .panels path").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_sideways_scrolling_and_enough_contrast(browser: Browser, report: Path, scheme: Any, width: int) -> None:
    seen = Seen(browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme))
    try:
        page = seen.open(report / "index.html")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for selector in ("p.completion", "main a", "td", "caption", ".notes", ".legend button", "thead button"):
            assert page.evaluate(CONTRAST, selector) >= 4.5, (selector, scheme)
        page.locator("a", has_text="MLP").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") == width
    finally:
        seen.page.close()
    seen.check()


# Relative luminance and contrast as WCAG 2 defines them, against the nearest painted ground.
CONTRAST = """selector => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = rgb => rgb.slice(0, 3).map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratios = [...document.querySelectorAll(selector)].map(element => {
    let ground = element;
    let colour = [0, 0, 0, 0];
    while (ground && (colour.length === 4 && colour[3] === 0)) {
      colour = parse(getComputedStyle(ground).backgroundColor);
      ground = ground.parentElement;
    }
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(colour)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
  return Math.min(...ratios);
}"""


def test_the_theme_can_be_chosen_and_stays(seen: Seen, report: Path) -> None:
    page = seen.open(report / "index.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.locator("#theme").click()
    assert page.evaluate(ground) != before
    page.reload()
    assert page.evaluate(ground) != before
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"


def test_readable_by_machines_too(seen: Seen, report: Path) -> None:
    page = seen.open(report / "index.html")
    assert page.locator("h1").count() == 1
    levels = page.locator("h1,h2,h3").evaluate_all("all => all.map(h => Number(h.tagName[1]))")
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("table:not(:has(caption))").count() == 0
    assert page.locator("svg[role=img]:not([aria-label])").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_the_command_makes_the_same_tasks_again(made: Made, tmp_path: Path) -> None:
    """The shell lines of a run's page, with a stand-in for Python that only notes what it is asked to run."""
    collected = collect(made.plan, made.states)
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\ntest -f "$3/task.json" && echo "$3" >> {tmp_path}/ran\n')
    python.chmod(0o755)
    for result in (collected.results[0], collected.results[-1]):
        (tmp_path / "ran").unlink(missing_ok=True)
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        lines = run_page.command(result, collected).replace("git checkout 0123abc", "true")
        path = f"{python.parent}:/usr/bin:/bin"
        subprocess.run(["sh", "-ec", lines], cwd=tmp_path, env={"PATH": path}, check=True)
        ran = (tmp_path / "ran").read_text().split()
        assert ran == [f"again/runs/{task}" for task in (result.row.dataset, result.id, result.row.evaluate)]
        assert [Task.read(tmp_path / folder).id for folder in ran] == [Path(folder).name for folder in ran]
    trial = made.plan.searches[0].trials.index(collected.results[-1].id or "")
    again = Storage(tmp_path / "again").search(made.plan.searches[0].id)
    assert (again / "search.json").exists()
    assert (again / f"trials/{trial:04d}/point.json").exists()
