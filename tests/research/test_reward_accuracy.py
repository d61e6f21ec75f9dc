"""`scripts/reward_accuracy.py` on each kind of file that it reads."""

import json
import re

import pytest
from support.commands import run_script
from support.places import DATA


ANSWERS = [
    {"completion": r"\boxed{7}", "gold": "7", "expected": 1, "kind": "number", "group": "holds"},
    {"completion": r"\boxed{8}", "gold": "7", "expected": 1, "kind": "number", "group": "fault"},
    {"completion": r"\boxed{8}", "gold": "7", "expected": None, "kind": "number", "group": "holds"},
]
TESTS = {"inputs": ["1 2\n"], "outputs": ["3\n"]}
PROGRAMS = [
    {"program": "```python\nprint(sum(map(int, input().split())))\n```", "tests": TESTS, "expected": 1, "kind": "sum"},
    {"program": "```python\nprint(4)\n```", "tests": TESTS, "expected": 1, "kind": "sum"},
]


@pytest.mark.parametrize(("cases", "right", "of"), [(ANSWERS, 1, 2), (PROGRAMS, 1, 2), (None, 49, 49)])
def test_a_table_counts_right_verdicts(tmp_path, cases, right, of):
    path = DATA / "choices.jsonl"
    if cases is not None:
        path = tmp_path / "cases.jsonl"
        path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    done = run_script("scripts/reward_accuracy.py", path, "--missed")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^\| all +\| +{of} \| +{right} \|$", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.count("\nexpected ") == of - right
