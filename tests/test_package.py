import ast
import importlib.metadata
import re
from pathlib import Path

import pytest

import delta_trl
from delta_trl import _versions


ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("installed", ["1.15.3", "1.17.0", "2.16.0", None])
def test_another_version_of_trl_is_refused_with_the_tested_one(monkeypatch, installed):
    def version(name):
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(_versions, "version", version)
    with pytest.raises(ImportError, match=rf"tested with trl 1\.16\.\*; found .*{installed or 'no trl'}"):
        _versions.require_tested_trl()


def test_any_patch_release_of_the_tested_version_will_do(monkeypatch):
    monkeypatch.setattr(_versions, "version", lambda name: "1.16.7")
    _versions.require_tested_trl()


def test_the_tested_version_is_the_one_that_is_required_and_pinned():
    dependencies = (ROOT / "pyproject.toml").read_text()
    lower, upper = re.search(r'"trl>=([\d.]+),<([\d.]+)"', dependencies).groups()
    assert lower == _versions.TESTED_TRL
    assert upper == "1.17"
    assert f"\ntrl=={_versions.TESTED_TRL}." in (ROOT / "constraints.txt").read_text()


def test_public_names():
    assert set(delta_trl.__all__) <= set(dir(delta_trl))
    for name in delta_trl.__all__:
        assert getattr(delta_trl, name).__module__.startswith("delta_trl.")
    with pytest.raises(AttributeError, match="no_such_name"):
        delta_trl.no_such_name  # noqa: B018


def test_the_product_does_not_import_research():
    package = ROOT / "delta_trl"
    product = [path for path in package.rglob("*.py") if "research" not in path.relative_to(package).parts]
    for path in product:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                assert not any("research" in name.split(".") for name in names), f"{path}, line {node.lineno}"
