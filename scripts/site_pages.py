"""The pages of the site: those of docs/, the README as its face, the changelog, and a page of the API for each package.

A link that leaves docs/ leads to a copy of the file. `make docs` runs this, and then `zensical build`.
"""

import ast
import posixpath
import re
import shutil
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "pages"  # docs_dir of zensical.toml
# Pages from outside docs/, and docs/README.md, which the site's navigation replaces
PLACES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "docs/README.md": "all_pages.md",
}
# Packages whose public names have a page, and the page's title
API = {
    "trainers": ("Trainers and the algorithm", "delta_trl"),
    "rewards": ("Rewards", "delta_trl.rewards"),
    "data": ("Data", "delta_trl.data"),
    "report": ("Report", "delta_trl.report"),
}


def place(source: str) -> str:
    """Where a file of the repository stands among the site's pages."""
    if source in PLACES:
        return PLACES[source]
    return source.removeprefix("docs/") if source.startswith("docs/") else f"files/{source}"


def page(source: str) -> tuple[str, set[str]]:
    """A page with its links changed to the places on the site, and the files that it links to."""
    linked = set()

    def change(match: re.Match) -> str:
        target, hash_sign, fragment = match[1].partition("#")
        if not target or re.match(r"\w+:", target):
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        linked.add(file)
        path = posixpath.relpath(place(file), posixpath.dirname(place(source)) or ".")
        return f"]({path}{hash_sign}{fragment})"

    text = re.sub(r"\]\(([^)\s]+)\)", change, (ROOT / source).read_text(encoding="utf-8"))
    return text, linked


def public_names(package: str) -> list[str]:
    """`__all__` of a package, read from its text."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    (names,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__"
    ]
    return names


def module_of(package: str, name: str) -> str:
    """The module of the package in which a public name is defined: the package itself may only load it on use."""
    folder = ROOT / package.replace(".", "/")
    pattern = re.compile(rf"^(?:class|def) {name}\b|^{name}\b.*=", re.MULTILINE)
    files = [path for path in sorted(folder.rglob("*.py")) if "inside" not in path.parts]
    files += sorted((ROOT / "delta_trl").glob("*.py"))
    path = next(p for p in files if p.name != "__init__.py" and pattern.search(p.read_text(encoding="utf-8")))
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def write_pages() -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    sources = [*list(PLACES)[:3], *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]
    files: set[str] = set()
    for source in sources:
        text, linked = page(source)
        write(place(source), text)
        files |= linked - set(sources)
    for file in files:
        target = PAGES / place(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / file).is_dir():
            shutil.copytree(ROOT / file, target, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / file, target)
    for name, (title, package) in API.items():
        names = [f"::: {module_of(package, public)}.{public}\n" for public in public_names(package)]
        write(f"api/{name}.md", "\n".join([f"# {title}\n\nThe public names of `{package}`.\n", *names]))


def write(path: str, text: str) -> None:
    (PAGES / path).parent.mkdir(parents=True, exist_ok=True)
    (PAGES / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_pages()
