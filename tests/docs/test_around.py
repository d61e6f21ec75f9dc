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
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert workflow["jobs"]["other-systems"]["strategy"]["matrix"]["system"] == ["macos-latest", "windows-latest"]


@pytest.mark.slow  # imports every module
def test_what_the_workflow_checks_on_other_systems(monkeypatch):
    # Windows has no workers: what is graded there must not need them
    monkeypatch.setattr(POOL, "run", lambda questions: pytest.fail("a worker was asked") if questions else [])
    done = run_script("tests/support/other_systems.py")
    assert done.returncode == 0, done.stderr
    assert "math_reward [1.0, 0.0, 0.0]" in done.stdout
    assert "code_reward" in done.stdout


def test_pages_that_load_from_other_servers_are_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")  # it imports another script
    site = load_script("scripts/site_build.py")
    harmless = (
        '<link rel="canonical" href="https://a.org/"><a href="https://a.org/x.css">x</a><script src="search.js"></script>'
        '<link rel="stylesheet" href="assets/a.css"><img src="pictures/a.png" alt="https://a.org/b.png">'
    )
    (tmp_path / "a.html").write_text(harmless)
    (tmp_path / "a.css").write_text("a { background: url(data:image/svg+xml;charset=utf-8,%3Csvg) }")
    assert site.loaded_from_elsewhere(tmp_path) == {}
    (tmp_path / "b.html").write_text('<link href="https://fonts.a.org/css?family=R" rel="stylesheet">')
    (tmp_path / "c.html").write_text('<script defer src="//cdn.a.org/x.js"></script><img src=https://a.org/b.svg>')
    (tmp_path / "d.html").write_text('<link rel="preconnect" href="https://fonts.a.org" crossorigin>')
    (tmp_path / "b.css").write_text('@import "https://a.org/x.css"; @font-face { src: url("https://a.org/f.woff2") }')
    assert site.loaded_from_elsewhere(tmp_path) == {
        "b.html": ["https://fonts.a.org/css?family=R"],
        "c.html": ["//cdn.a.org/x.js", "https://a.org/b.svg"],
        "d.html": ["https://fonts.a.org"],
        "b.css": ["https://a.org/f.woff2", "https://a.org/x.css"],
    }
    assert tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["theme"]["font"] is False


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
