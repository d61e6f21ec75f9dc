"""What stands around the code: the version in every place that names it, and what the workflow runs."""

import importlib
import re
import tomllib

import pytest
import yaml
from support.commands import load_script, run_script
from support.places import ROOT

from delta_trl.rewards.math.grading import POOL
from delta_trl.version import __version__


def test_the_version_is_the_same_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    version, date = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)[0]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert version == citation["version"] == __version__
    assert date == str(citation["date-released"])


def test_the_workflow_runs_what_is_here():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in commands
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands:
        for target in re.findall(r"^make ([\w-]+)", command):
            assert target in targets
        for path in re.findall(r"(?:\.ci|tests)/[\w/.]+", command):
            assert (ROOT / path).is_file()
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert workflow["jobs"]["other-systems"]["strategy"]["matrix"]["system"] == ["macos-latest", "windows-latest"]


@pytest.mark.slow  # imports every module
def test_what_the_workflow_checks_on_other_systems(monkeypatch):
    # Windows has no workers: what is graded there must not need them
    monkeypatch.setattr(POOL, "run", lambda questions: pytest.fail("a worker was asked") if questions else [])
    done = run_script("tests/support/other_systems.py")
    assert done.returncode == 0, done.stderr
    assert "math_reward [1.0, 0.0, 0.0]" in done.stdout
    assert "code_reward" in done.stdout


def test_the_site_has_every_page_and_every_public_name(tmp_path, monkeypatch):
    site = load_script("scripts/site_pages.py")
    monkeypatch.setattr(site, "PAGES", tmp_path)
    site.write_pages()
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    listed = [page for section in nav for pages in section.values() for page in pages]
    assert len(listed) == len(set(listed))
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.md")} - {"all_pages.md"}
    assert {page for page in written if page.count("/") < 2} <= {*listed} <= written
    assert "](metrics.md)" in (tmp_path / "index.md").read_text()
    assert "](files/configs/quickstart.yaml)" in (tmp_path / "quickstart.md").read_text()
    for page, (_, package) in site.API.items():
        names = re.findall(r"^::: (\S+)\.(\w+)$", (tmp_path / "api" / f"{page}.md").read_text(), re.MULTILINE)
        module = importlib.import_module(package)
        assert [name for _, name in names] == module.__all__
        for home, name in names:
            assert getattr(importlib.import_module(home), name) is getattr(module, name)
