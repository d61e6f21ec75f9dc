"""The pages against the repository: links, size limits, figures of the study, and the page of options."""

import json
import re
from pathlib import Path

import pytest
from support.commands import load_script
from support.places import ROOT

from delta_trl.methods.ablations import VARIANTS
from delta_trl.methods.names import methods
from delta_trl.research.study.settings import load_study
from delta_trl.research.study.store import read_records


README = ROOT / "README.md"
PAGES = sorted([README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
STUDIES = ROOT / "docs" / "results" / "study"


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub gives the page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"(https?|mailto):", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        if fragment:
            assert fragment in anchors(file), f"{page.name} links to {target}: {file.name} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_is_named_exists(page):
    folders = "delta_trl|configs|scripts|tests|docs"
    text = re.sub(r"\]\([^)]*\)", "]", page.read_text())  # links are checked above
    for path in re.findall(rf"(?<![\w./-])((?:{folders})/[\w./*-]*\w/?)", text):
        assert list(ROOT.glob(path)), f"{page.name} names {path}, which does not exist"


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, f"docs/README.md does not list {page.name}"


def test_the_readme_is_short():
    text = README.read_text()
    assert len(text.splitlines()) <= 180
    assert len(text.encode()) <= 9 * 1024


def test_every_trainer_and_every_variant_has_its_section_or_line():
    text = (ROOT / "docs" / "methods.md").read_text()
    headings = re.findall(r"^## `(\w+)`", text, re.MULTILINE)
    assert sorted(headings) == sorted(methods())
    for variant in VARIANTS:
        assert f"`{variant}`" in text, f"docs/methods.md does not say what the variant {variant} is"


def test_the_page_of_options_is_up_to_date():
    script = load_script("scripts/options_page.py")
    assert script.PAGE.read_text() == script.page(), "docs/options.md is old: run python scripts/options_page.py"


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*/results.jsonl.gz")), ids=lambda file: file.parent.name)
def test_no_shipped_record_goes_stale(file):
    """What the study asks for is what was run: its keys hash the options, so that another spelling would run it again."""
    asked = {(run.method, run.seed): run for run in load_study(ROOT / f"configs/study/{file.parent.name}.yaml").runs()}
    records = read_records(file.parent)
    assert len(records) == len(asked)
    for record in records:
        options = asked[record["method"], record["seed"]].options
        assert json.dumps(options, sort_keys=True) == json.dumps(record["options"], sort_keys=True)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def study_figures(study: str, metric: str, method: str, baseline: str) -> str:
    """What `study.md` has for a method and for its difference to a baseline, on the metric whose name starts so."""
    is_it = (lambda name: name == metric) if metric.startswith("area") else (lambda name: name.startswith(metric))
    tables = [t.splitlines() for t in (STUDIES / study / "study.md").read_text().split("\n\n") if t.startswith("|")]
    values, found = tables[0], ""
    column = max(i for i, name in enumerate(cells(values[0])) if is_it(name))
    differences = [table for table in tables[1:] if is_it(cells(table[0])[1])][-1]
    for row in map(cells, values):
        found += f" {row[column].split()[0]}" if row[0] == method else ""  # without the interval
    for row in map(cells, differences):
        found += f" {' '.join(row[1:])}" if row[0] == f"{method} − {baseline}" else ""
    return found


def quoted_figures(page: str):
    """Study, metric, method, baseline and cell for each figure of a page's tables of studies.

    A row belongs to the study that a cell of it names, else to the one in the heading above. Method and baseline are the
    cells in code style; without a baseline it is DAPO. A column has the metric that its header names, or one left of it.
    """
    studies = sorted((file.parent.name for file in STUDIES.glob("*/study.md")), key=len, reverse=True)
    area = "area under the reward curve"
    metrics = (f"{area}, by seconds", area, "pass rate", "entropy", "greedy", "pass@1", "pass@8")
    heading, header = "", []
    for line in page.splitlines():
        if line.startswith("#"):
            heading = line.lower()
        if not line.startswith("|"):
            header = []
            continue
        row = cells(line)
        header = header or row
        study = next((name for place in (row, heading) for name in studies if name in place), None)
        names = [cell[1:-1] for cell in row if re.fullmatch(r"`[\w.]+`", cell)]
        metric = None
        for title, cell in zip(header, row, strict=True):
            metric = next((name for name in metrics if name in title), metric)
            if study and names and metric and row is not header:
                yield study, metric, names[0], names[1] if len(names) > 1 else "dapo", cell


@pytest.mark.parametrize(
    "page",
    [
        README,
        *(
            ROOT / "docs" / "results" / name
            for name in (
                "study.md",
                "rivals.md",
                "stability.md",
                "precedence.md",
                "hashed_agreement.md",
                "previous.md",
            )
        ),
    ],
    ids=lambda page: page.name,
)
def test_the_figures_of_the_studies_are_those_of_their_records(page):
    quoted = list(quoted_figures(page.read_text()))
    assert len(quoted) >= 4
    for study, metric, method, baseline, cell in quoted:
        known = study_figures(study, metric, method, baseline)
        numbers = [float(number) for number in re.findall(r"[+-]?\d+\.\d+", known)]
        for figure in re.findall(r"[+-]\d+\.\d+ \[[^]]+\]|\d+/\d+|[+-]?\d+\.\d+", cell):
            found = re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", known)
            if not found and re.fullmatch(r"[+-]?\d+\.\d+", figure):  # the page shows fewer digits
                half = 0.5 * 10.0 ** -len(figure.partition(".")[2])
                found = any(abs(number - float(figure)) <= half * 1.001 for number in numbers)
            assert found, f"{page.name}: {figure} is not the {metric} of {method} against {baseline} in {study}"
