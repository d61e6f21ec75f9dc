"""Builds the site: `make docs`. An error is what zensical finds with --strict, and what it lets pass: docstrings that do not
fit their signatures, and pages that load something from another server.
"""

import re
import subprocess
import sys
from pathlib import Path

from site_pages import ROOT, write_pages


SITE = ROOT / "build" / "site"  # site_dir of zensical.toml
# What a browser loads on its own: scripts, pictures, frames, and links to what is no page. Links to click on may lead away.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\b(?:src|srcset)=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon|manifest))[^>]*?\bhref=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|@import\s+(?:url\()?["']?((?:https?:)?//[^"'\s)]+)|url\(["']?((?:https?:)?//[^"'\s)]+)"""
)


def loaded_from_elsewhere(site: Path) -> dict[str, list[str]]:
    """Each page or style sheet of a built site that loads from other servers, with the addresses."""
    found = {}
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".css"):
            text = path.read_text(encoding="utf-8")
            if addresses := sorted({next(filter(None, groups)) for groups in LOADED.findall(text)}):
                found[str(path.relative_to(site))] = addresses
    return found


def build() -> int:
    """Build the site; 0, or 1 with a message about what is wrong."""
    write_pages()
    zensical = Path(sys.executable).with_name("zensical")
    done = subprocess.run(
        [zensical, "build", "--clean", "--strict"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout, end="")
    if done.returncode:
        return done.returncode
    if re.search(r"^griffe: ", done.stdout, re.MULTILINE):
        print("error: a docstring's section does not fit its signature: see the lines of griffe above.")
        return 1
    if found := loaded_from_elsewhere(SITE):
        pages = "\n".join(f"  {page}: {', '.join(addresses)}" for page, addresses in found.items())
        print(f"error: pages must load nothing from other servers, and these do:\n{pages}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(build())
