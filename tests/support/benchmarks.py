"""Benchmarks as local files."""

import os
from pathlib import Path

import pytest

from support.places import DATA, ROOT


MATH = DATA / "math500_first_12.jsonl"


# Texts that may be read but not copied into this repository (CC BY-NC-SA).
SHARED = Path(os.environ.get("DELTA_TRL_SHARED_DATA", ROOT.parent / "shared" / "data"))


needs_aime24 = pytest.mark.skipif(
    not (SHARED / "aime24.jsonl").exists(), reason="needs AIME 2024 as a local file: set DELTA_TRL_SHARED_DATA"
)
