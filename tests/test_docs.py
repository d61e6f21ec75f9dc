"""The pages against the repository: links, size limits, figures of the study, and the page of options."""

import importlib.util
import re
from pathlib import Path

import pytest
from conftest import ROOT

from delta_trl.research.variants import VARIANTS
from delta_trl.train.methods import methods


README = ROOT / "README.md"
PAGES = sorted([README, *(ROOT / "docs").rglob("*.md")])
STUDIES = ROOT / "docs" / "results" / "study"
# What a first run or a build writes, which the repository does not hold
GENERATED = ("outputs/", ".venv/")


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
    for path in re.findall(rf"(?<![\w./-])((?:{folders})/[\w./*-]*\w/?)", page.read_text()):
        assert path.startswith(GENERATED) or list(ROOT.glob(path)), f"{page.name} names {path}, which does not exist"


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
    spec = importlib.util.spec_from_file_location("options_page", ROOT / "scripts" / "options_page.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text() == script.page(), "docs/options.md is old: run python scripts/options_page.py"


def study_rows(page: str):
    """Study, method, baseline and further cells of each table row that belongs to a study: one cell names it, or the
    heading above. Method and baseline are the cells in code style; without a baseline it is DAPO."""
    studies = [file.parent.name for file in STUDIES.glob("*/study.md")]
    heading = ""
    for line in page.splitlines():
        if line.startswith("#"):
            heading = line.lower()
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        study = next((cell for cell in cells if cell in studies), next((s for s in studies if s in heading), None))
        names = [cell[1:-1] for cell in cells if re.fullmatch(r"`[\w.]+`", cell)]
        if study and names:
            further = [cell for cell in cells if cell != study and cell[1:-1] not in names]
            yield study, names[0], names[1] if len(names) > 1 else "dapo", further


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "results" / "study.md"], ids=lambda page: page.name)
def test_the_figures_of_the_studies_are_those_of_their_records(page):
    rows = list(study_rows(page.read_text()))
    assert len(rows) >= 4
    for study, method, baseline, cells in rows:
        table = (STUDIES / study / "study.md").read_text().splitlines()
        names = (method, f"{method} − {baseline}")
        lines = "\n".join(line for line in table if line.strip("|").partition("|")[0].strip() in names)
        numbers = [float(number) for number in re.findall(r"[+-]?\d+\.\d+", lines)]
        for cell in cells:
            for figure in re.findall(r"[+-]\d+\.\d+ \[[^]]+\]|\d+/\d+|[+-]?\d+\.\d+", cell):
                found = figure in lines
                if not found and re.fullmatch(r"[+-]?\d+\.\d+", figure):  # shown with fewer digits than there
                    half = 0.5 * 10.0 ** -len(figure.partition(".")[2])
                    found = any(abs(number - float(figure)) <= half * 1.001 for number in numbers)
                assert found, f"{page.name}: {figure} is not what study {study} has for {method} and {baseline}"
