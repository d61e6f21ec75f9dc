# ruff: noqa: E501 - some programs are one line
"""The code reward: finding programs, reading tests, comparing outputs, verdicts, metrics, programs that cheat."""

import json
import pickle

import pytest

from delta_trl.data.code import convert_row
from delta_trl.rewards import code_reward, make_code_reward
from delta_trl.rewards.code import grade_code
from delta_trl.rewards.code.compare import read_value, same_text, same_value
from delta_trl.rewards.code.extraction import extract_code
from delta_trl.rewards.code.grading import contains_outputs, grade_program
from delta_trl.rewards.code.tests import read_tests
from delta_trl.sandbox import Limits, Sandbox


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox(workers=2)
    yield sandbox
    sandbox.close()


def fenced(program: str) -> str:
    return f"Here it is.\n\n```python\n{program}\n```\n"


SUM = {"inputs": ["1 2\n", "3 4\n", "5 6\n"], "outputs": ["3\n", "7\n", "11\n"]}
ADD = {"inputs": [[1, 2], [3, 4], [5, 6]], "outputs": [3, 7, 11], "fn_name": "add"}


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\na\n```", "a\n"),
        ("```python\na\n```\ntext\n```python\nb\n```\n", "b\n"),
        ("```py\na\n```", "a\n"),
        ("```Python3\na\n```", "a\n"),
        ("```python\na\n```\nIt prints\n```\n3\n```", "a\n"),
        ("```\na\n```", "a\n"),
        ("```cpp\na\n```", None),
        ("```python\na", None),
        ("```python\na\n```\nBetter:\n```python\nb", "a\n"),
        ("a", None),
        ("", None),
        ("<think>\n```python\na\n```\n</think>\n```python\nb\n```", "b\n"),
        ("<think>\n```python\na\n```\n</think>\nnothing", None),
        ("<think>\n```python\na\n```\n", None),
        ("x</think>```python\na\n```", "a\n"),
        ("```python\na\n```</think> <think> wait", None),
        ("````python\na\n```\nb\n````", "a\n```\nb\n"),
        ("  ```python\n  a\n  ```", "a\n"),
    ],
)
def test_the_last_closed_block_of_python(completion, program):
    assert extract_code(completion) == program


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ("3\n", "3", True),
        ("3", "3 \n\n", True),
        ("1 2\n3", "1 2\n3", True),
        ("1 2\n3", "1\n2 3", True),
        ("1\n2\n3", "1\n", False),
        ("1", "1\n2", False),
        ("", "", True),
        ("", "x", False),
        ("YES", "yes", False),
        ("0.5", "0.5000001", True),
        ("0.5", "0.50001", False),
        ("1e3", "1000", True),
        ("1000000.0", "1000000.9", True),
        ("2.0", "2", True),
        ("2", "2.0", False),
        ("2", "3", False),
        ("1.0", "nan", False),
        ("1.0", "inf", False),
        ("v1.2", "v1.2000000001", False),
        ("1.0", "1_0e-1", False),
        ("1e999", "2e999", False),
        ("1." + "0" * 500, "1.0", False),
    ],
)
def test_texts(expected, got, same):
    assert same_text(expected, got) is same


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ("3", "3", True),
        ("3", "3.0", True),
        ("3.0", "3", True),
        ("3", "3.0000001", False),
        ("0.5", "0.5000001", True),
        ("0.5", "0.51", False),
        ("true", "1", False),
        ("1", "true", False),
        ("1.0", "true", False),
        ("0", "false", False),
        ("null", "0", False),
        ("null", "null", True),
        ('"3"', "3", False),
        ('"a"', '"a "', False),
        ("[1, [2]]", "[1, [2]]", True),
        ("[1, 2]", "[2, 1]", False),
        ("[1, 2]", "[1]", False),
        ("[]", "{}", False),
        ('{"a": 1}', '{"a": 1.0}', True),
        ('{"a": 1}', '{"a": 1, "b": 2}', False),
        ('{"$set": [1]}', "[1]", False),
        ("NaN", "NaN", True),
        ("1.5", "NaN", False),
        ("1.5", "1" + "0" * 400, False),
    ],
)
def test_values(expected, got, same):
    assert same_value(read_value(expected), read_value(got)) is same


def test_values_that_cost_too_much_are_refused():
    with pytest.raises(ValueError, match="nested more than 100"):
        read_value("[" * 200 + "]" * 200)
    with pytest.raises(ValueError, match="nested more than 100"):
        read_value("[" * 200_000)
    with pytest.raises(ValueError, match="5000 digits"):
        read_value("9" * 5000)


@pytest.mark.parametrize(
    ("tests", "inputs", "outputs"),
    [
        ({"inputs": ["a\n"], "outputs": ["b\n"]}, ["a\n"], [["b\n"]]),
        ({"inputs": [["a", "b"]], "outputs": [["c", "d"]]}, ["a\nb"], [["c\nd"]]),
        ({"inputs": [[1, [2]]], "outputs": [3], "fn_name": "f"}, [[1, [2]]], [[3]]),
        ({"inputs": ["1\n[2]"], "outputs": ["3"], "fn_name": "f"}, [[1, [2]]], [["3"], [3]]),
        ({"inputs": [[1]], "outputs": [[3]], "fn_name": "f"}, [[1]], [[[3]], [3]]),
        ({"inputs": [[1]], "outputs": [["3"]], "fn_name": "f"}, [[1]], [[["3"]], ["3"], [3]]),
        ({"inputs": [[1], [2]], "outputs": [[3], [4, 5]], "fn_name": "f"}, [[1], [2]], [[[3], [4, 5]]]),
        ({"inputs": [["a"]], "outputs": ["yes"], "fn_name": "f"}, [["a"]], [["yes"]]),
        ({"inputs": [5], "outputs": [(1, 2)], "fn_name": "f"}, [[5]], [[[1, 2]]]),
        ({"inputs": ["((1, 2),)"], "outputs": [[3]], "fn_name": "f", "format": "python"}, ["((1, 2),)"], [[[3]]]),
    ],
)
def test_forms_of_tests(tests, inputs, outputs):
    for form in (tests, json.dumps(tests)):
        found = read_tests(form)
        assert (found.inputs, found.outputs) == (inputs, outputs)


@pytest.mark.parametrize(
    "tests",
    [
        {},
        None,
        3,
        "",
        "{",
        "[]",
        {"inputs": [], "outputs": []},
        {"inputs": ["1"], "outputs": []},
        {"inputs": ["1", "2"], "outputs": ["1"]},
        {"inputs": [1], "outputs": ["1"]},
        {"inputs": [{"a": 1}], "outputs": ["1"]},
        {"inputs": ["not json"], "outputs": ["1"], "fn_name": "f"},
        {"inputs": [[1]], "outputs": ["1"], "fn_name": 3},
        {"inputs": [[1]], "outputs": ["1"], "fn_name": "f", "format": "python"},
        {"inputs": [[1]], "outputs": ["1"], "fn_name": "f", "format": "ruby"},
        {"inputs": [[{1, 2}]], "outputs": ["1"], "fn_name": "f"},
        {"inputs": "12", "outputs": "12"},
    ],
)
def test_unusable_tests_have_no_reward(tests):
    with pytest.raises(ValueError, match=r"tests|JSON|value|item|format|fn_name"):
        read_tests(tests)
    assert code_reward([fenced("print(1)")], [tests]) == [None]


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "tests",
    [
        "[" * 200_000,
        '{"inputs": ' + "[" * 200_000,
        '{"inputs": ["' + "[" * 200_000 + '"], "outputs": ["1"], "fn_name": "f"}',
        {"inputs": [nested(100_000)], "outputs": ["1"], "fn_name": "f"},
        {"inputs": [nested(100_000)], "outputs": ["1"]},
        {"inputs": [nested(100_000), "1"], "outputs": ["1", "1"], "fn_name": "f"},
        {"inputs": ["1"], "outputs": ["1"], "unused": nested(100_000)},
    ],
)
def test_tests_that_are_nested_too_deep_end_nothing(tests):
    usable = isinstance(tests, dict) and "unused" in tests
    assert code_reward([fenced("print(1)")], [tests]) == [1.0 if usable else None]
    assert make_code_reward(tests=1)([fenced("print(1)")], [tests]) == [1.0 if usable else None]
    found = convert_row({"question": "q", "tests": tests}, 0, "own", "question", ())
    assert found["fault"].startswith("row 0: ")


def test_the_longest_inputs_are_kept_in_their_order():
    tests = {"inputs": ["1", "333", "22", "4444", "55"], "outputs": ["a", "b", "c", "d", "e"]}
    assert read_tests(tests, most=3).inputs == ["333", "22", "4444"]
    assert read_tests(tests, most=3).outputs == [["b", "c", "d"]]


def test_rewards_and_metrics():
    metrics, columns = {}, {}
    reader = "print(sum(map(int, input().split())))"
    completions = [
        fenced(reader),
        [{"role": "assistant", "content": fenced("def add(a, b): return a + b")}],
        fenced("class Solution:\n    def add(self, a, b):\n        return a + b"),
        fenced("print(3)"),
        "3",
        "<think>" + fenced(reader),
        fenced("1 / 0"),
        fenced(reader),
        fenced("print({'1 2': 3, '3 4': 7, '5 6': 11}[input()])"),
    ]
    rows = [SUM, ADD, json.dumps(ADD), SUM, SUM, SUM, SUM, {}, SUM]
    rewards = code_reward(completions, rows, log_extra=columns.__setitem__, log_metric=metrics.__setitem__)
    assert rewards == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, None, 1.0]
    assert columns["verdict"] == [
        "right",
        "right",
        "right",
        "wrong",
        "no code",
        "no code",
        "crashed",
        "unusable tests",
        "right",
    ]
    assert columns["detail"][6] == "line 1: ZeroDivisionError: division by zero"
    shares = {name: round(9 * value) for name, value in metrics.items()}
    assert shares == {
        "code_reward/right": 4,
        "code_reward/no_code": 2,
        "code_reward/crashed": 1,
        "code_reward/wrong": 1,
        "code_reward/timed_out": 0,
        "code_reward/out_of_memory": 0,
        "code_reward/unusable_tests": 1,
        "code_reward/hard_coded": 0,
    }
    open_thought = code_reward(
        [fenced(reader), "x</think>" + fenced(reader)], [SUM, SUM], prompts=["Sum.<think>\n"] * 2
    )
    assert open_thought == [0.0, 1.0]
    with pytest.raises(ValueError, match="Repeat the row"):
        code_reward([fenced(reader)], [SUM, SUM])
    assert pickle.loads(pickle.dumps(code_reward)) is code_reward


def test_other_settings():
    part = fenced("n = sum(map(int, input().split()))\nprint(n if n < 11 else 0)")
    late = fenced("n = sum(map(int, input().split()))\nwhile n == 7: pass\nprint(n)")
    raising = fenced("def add(a, b): return a + b if a != 3 else 1 / 0")
    fraction = make_code_reward(fraction=True, timeout=2.0, workers=2)  # less is short for a start on a busy core
    assert fraction([part, late, raising], [SUM, SUM, ADD]) == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    whole = make_code_reward(timeout=2.0, workers=2)
    assert whole([part, late, raising], [SUM, SUM, ADD]) == [0.0, 0.0, 0.0]
    few = make_code_reward(tests=2, workers=1)
    assert few([part], [SUM]) == [1.0]  # the first two of three equally long
    with pytest.raises(ValueError, match="tests must be at least 1"):
        make_code_reward(tests=0)
    with pytest.raises(ValueError, match="timeout must be above 0 seconds"):
        make_code_reward(timeout=0)


def test_reasons(sandbox):
    limits = Limits(cpu_seconds=0.3, memory_bytes=2**27, output_bytes=2**16)
    programs = {
        "while True: pass": "timed out",
        "x = [0] * 10**9": "out of memory",
        "while True: print('x' * 1000)": "wrong",
        "import sys; sys.exit(1)": "crashed",
        "": "wrong",
    }
    verdicts = grade_code(list(map(fenced, programs)), [SUM] * len(programs), sandbox, limits)
    assert [verdict.reason for verdict in verdicts] == list(programs.values())


def test_what_one_run_leaves_behind_fails_no_other(sandbox):
    """Right programs whose second run in the same process would go wrong."""
    leave = "import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)"
    patch = "import json\nif json.dumps(0) != '0': raise SystemExit(1)\njson.dumps = None\nprint(sum(map(int, input().split())))"
    close = "import os\nprint(sum(map(int, input().split())), flush=True)\nos.closerange(0, 300)"
    daemon = "import threading, time\nthreading.Thread(target=time.sleep, args=[9], daemon=True).start()\nprint(sum(map(int, input().split())))"
    for program in (leave, patch, close, daemon):
        verdict = grade_program(program, read_tests(SUM), sandbox)
        assert (verdict.score, verdict.reason) == (1.0, "right"), program
    state = "import json\njson.n = getattr(json, 'n', 0) + 1\nprint([3, 7, 0][json.n - 1])"
    assert grade_program(state, read_tests(SUM), sandbox).score == 0.0


CHEATS = {
    "__eq__ of a number": "class X(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef add(a, b): return X(0)",
    "__eq__ of an object": "class X:\n    def __eq__(self, other): return True\ndef add(a, b): return X()",
    "__eq__ of a list": "class X(list):\n    def __eq__(self, other): return True\ndef add(a, b): return X()",
    "a string that is all": "class X(str):\n    def __eq__(self, other): return True\ndef add(a, b): return X('3')",
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "os._exit(0)": "import os\nos._exit(0)",
    "exit in the call": "def add(a, b): raise SystemExit(0)",
    "leave in the call": "import os\ndef add(a, b): os._exit(0)",
    "patch json": "import json\njson.dumps = lambda *a, **k: '99'\ndef add(a, b): return 0",
    "patch the encoder": "import sys\nm = sys.modules['program']\nm.encode = lambda value: '{\"score\": 1}'\ndef add(a, b): return 0",
    "patch builtins": "import builtins\nbuiltins.len = lambda x: 3\nbuiltins.isinstance = lambda *a: True\nbuiltins.all = lambda x: True\ndef add(a, b): return 0",
    "read the frames": "import sys\ndef add(a, b):\n    frame = sys._getframe()\n    while frame:\n        for name, value in list(frame.f_locals.items()):\n            if 'expect' in name or 'output' in name: return value\n            if isinstance(value, dict) and 'outputs' in value: return value['outputs']\n        frame = frame.f_back",
    "search the objects": "import gc\ndef add(a, b):\n    for o in gc.get_objects():\n        if isinstance(o, dict) and ('outputs' in o or 'expected' in o): return o.get('outputs') or o.get('expected')",
    "search the memory": "import gc\ndef add(a, b):\n    for o in gc.get_objects():\n        if isinstance(o, list) and o == [3, 7, 11] and o is not add.__code__: return o[[1, 3, 5].index(a)]",
    "all candidates": "import os\ndef add(a, b):\n    for n in range(20): os.write(3, b'=%d\\n' % n)\n    return 0",
    "forge the lines": "import os\nos.write(3, b'=0\\n=0\\n=0\\n')\nos._exit(0)",
    "forge success": "import os\nos.write(3, b'right\\n{\"score\": 1.0}\\n=true\\n')\nos._exit(0)",
    "too few lines": "import os\nos.write(3, b'=9\\n')\nos._exit(0)",
    "deep JSON": "import os\nos.write(3, b'=' + b'[' * 200000 + b'\\n=8\\n=12\\n')\nos._exit(0)",
    "huge number": "import os\nos.write(3, b'=' + b'9' * 100000 + b'\\n=8\\n=12\\n')\nos._exit(0)",
    "wide JSON": "import os\nos.write(3, b'=[' + b'[],' * 10**6 + b'0]\\n=8\\n=12\\n')\nos._exit(0)",
    "no JSON": "import os\nos.write(3, b'=\\xff\\xfe\\n=\\n=]\\n')\nos._exit(0)",
    "NaN": "def add(a, b): return float('nan')",
    "infinity": "def add(a, b): return float('inf')",
    "True": "def add(a, b): return True",
    "nothing": "def add(a, b): pass",
    "a generator": "def add(a, b):\n    yield a + b",
    "a mock": "from unittest.mock import ANY\ndef add(a, b): return ANY",
    "change the arguments": "import sys\ndef add(a, b):\n    sys._getframe(1).f_locals['job']['calls'].clear()\n    return a + b",
    "empty the calls": "import sys\nsys._getframe(1).f_locals['job']['calls'].clear()\ndef add(a, b): return 0",
    "the parent's frames": "import ctypes\ndef add(a, b): return ctypes.string_at(id(a), 8)",
    "a recursion": "def add(a, b): return add(a, b)",
    "itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "a text": "def add(a, b): return str(a + b)",
    "a list": "def add(a, b): return [a + b, 0]",
}


@pytest.mark.parametrize("program", CHEATS.values(), ids=CHEATS)
def test_programs_that_cheat_get_nothing(sandbox, program):
    limits = Limits(cpu_seconds=2.0)
    assert grade_program(program, read_tests(ADD), sandbox, limits).score == 0.0
    assert grade_program(program, read_tests(ADD), sandbox, limits, fraction=True).score == 0.0
    honest = grade_program(program + "\ndef add(a, b): return a + b", read_tests(ADD), sandbox, limits)
    assert honest.score in (0.0, 1.0)  # and the next program is graded as ever
    assert grade_program("def add(a, b): return a + b", read_tests(ADD), sandbox, limits).score == 1.0


STDIN_CHEATS = {
    "print all candidates": "for n in range(100): print(n)",
    "leave": "import sys\nsys.exit(0)",
    "forge the lines": "import os\nos.write(3, b'=0\\n=0\\n=0\\n')\nos._exit(0)",
    "print nothing": "",
    "read the next input": "import os\nfor n in range(4, 60):\n    try: print(os.read(n, 100))\n    except OSError: pass",
    "write to other outputs": "import os\nfor n in range(3, 60):\n    try: os.write(n, b'3\\n')\n    except OSError: pass",
    "no end": "import itertools\nfor n in itertools.count(): print(n)",
    "escape codes": "print('3\\x1b[2K\\r')",
}


@pytest.mark.parametrize("program", STDIN_CHEATS.values(), ids=STDIN_CHEATS)
def test_programs_that_cheat_on_standard_output_get_nothing(sandbox, program):
    assert grade_program(program, read_tests(SUM), sandbox, Limits(output_bytes=2**20)).score == 0.0


def test_hard_coded_outputs_are_noticed():
    tests = read_tests({"inputs": ["1", "2", "3"], "outputs": ["12345", "Impossible", "Impossible"]})
    assert contains_outputs("print('12345' if input() == '1' else 'Impossible')", tests)
    assert not contains_outputs("print('Impossible')", tests)
    assert not contains_outputs("# 12345\nprint(123456)", tests)
    assert code_reward([fenced("print({'1': '12345'}.get(input().strip(), 'Impossible'))")], [
        {"inputs": ["1", "2", "3"], "outputs": ["12345", "Impossible", "Impossible"]}
    ], log_metric=lambda name, value: name.endswith(("right", "hard_coded")) and value == 1.0) == [1.0]  # fmt: skip


# The wrong answer on 5, unless a run on 1 came before it in the same process and left something behind
LEFT_BEHIND = {
    "a module's attribute": ("import math", "math.seen = 1", "hasattr(math, 'seen')"),
    "a replaced function": ("import math", "math.floor = len", "math.floor is len"),
    "in a function": ("", "import math; math.seen = 1", "hasattr(__import__('math'), 'seen')"),
    "a module imported later": ("import colorsys", "colorsys.seen = 1", "hasattr(colorsys, 'seen')"),
    "a module put in place": ("import sys", "sys.modules['seen'] = sys", "'seen' in sys.modules"),
    "the module sys": ("import sys", "sys.seen = 1", "hasattr(sys, 'seen')"),
    "builtins": ("import builtins", "builtins.seen = 1", "hasattr(builtins, 'seen')"),
    "decimal precision": ("from decimal import getcontext", "getcontext().prec = 9", "getcontext().prec == 9"),
    "the environment": ("import os", "os.environ['SEEN'] = '1'", "'SEEN' in os.environ"),
    "arguments": ("import sys", "sys.argv.append('1')", "len(sys.argv) > 1"),
    "recursion": ("import sys", "sys.setrecursionlimit(7000)", "sys.getrecursionlimit() == 7000"),
    "stack size": ("import threading", "threading.stack_size(2**20)", "threading.stack_size() == 2**20"),
    "the collector": ("import gc", "gc.disable()", "not gc.isenabled()"),
    "random numbers": ("import random", "random.seed(7)", "random.random() == 0.32383276483316237"),
    "numpy's random numbers": (
        "import numpy as np",
        "np.random.seed(7)",
        "abs(np.random.rand() - 0.07630828937395717) < 1e-12",
    ),
    "numpy's printing": (
        "import numpy as np",
        "np.set_printoptions(precision=2)",
        "np.get_printoptions()['precision'] == 2",
    ),
    "a signal handler": (
        "import signal",
        "signal.signal(signal.SIGALRM, signal.SIG_IGN)",
        "signal.getsignal(signal.SIGALRM) == signal.SIG_IGN",
    ),
}


@pytest.mark.parametrize(("start", "leave", "found"), LEFT_BEHIND.values(), ids=LEFT_BEHIND)
def test_no_program_is_right_because_of_an_earlier_run(sandbox, start, leave, found):
    program = f"{start}\nif input() == '1':\n    (lambda: 0)()\n    {leave}\n    print(1)\nelse:\n    print({found})\n"
    tests = read_tests({"inputs": ["1\n", "5\n"], "outputs": ["1\n", "True\n"]})
    verdict = grade_program(program, tests, sandbox)
    assert (verdict.score, verdict.reason) == (0.0, "wrong"), verdict
    alone = program.replace("if input() == '1':", "if input():", 1)
    both = alone.replace("else:\n   ", "if True:\n   ")  # the control: what is looked for is there in the same run
    assert sandbox.run(both, stdin=b"1\n").stdout == b"1\nTrue\n"
