"""Finding programs in completions: the forms of fences, and time that grows with the length only."""

import textwrap
import time

import pytest

from delta_trl.rewards.code.extraction import extract_code


DOCSTRING = 'def f(n):\n    """\n    ```python\n    f(1)\n    ```\n    """\n    return n\n'
AT_MARGIN = '"""\n```python\nf(1)\n```\n"""\ndef f(n):\n    return n\n'


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("~~~python\na\n~~~", "a\n"),
        ("~~~~py\na\n```\nb\n~~~~", "a\n```\nb\n"),
        ("```{.python}\na\n```", "a\n"),
        ("```{.python .numberLines}\na\n```", "a\n"),
        ("```python3.11\na\n```", "a\n"),
        ("```pypy3\na\n```", "a\n"),
        ("```Python 3\na\n```", "a\n"),
        ('```python title="a.py"\na\n```', "a\n"),
        ("```python,linenos\na\n```", "a\n"),
        ("```python-repl\n>>> a\n```", None),
        ("```pycon\n>>> a\n```", None),
        ("1. So:\n   ```python\n   if a:\n       b\n   ```\n2. Done.", "if a:\n    b\n"),
        ("- So:\n\n  ```python\n  a\n\n  b\n  ```", "a\n\nb\n"),
        ("1. So:\n   ```python\na\nb\n   ```", "a\nb\n"),  # not indented, as a list would have it
        ("- So:\n\n        ```python\n        a\n        ```", "a\n"),
        ("> ```python\n> a\n> ```", "a\n"),
        ("<answer>\n```python\na\n```\n</answer>", "a\n"),
        ("<answer>```python\na\n```</answer>", "a\n"),
        ("<answer>~~~python\na\n~~~</answer>\n", "a\n"),
        ("```python\na\n```<|im_end|>", "a\n"),
        ("```python\na\n```\n<answer>```python\nb\n```</answer>", "b\n"),
        ("```python\na\n```\n<answer>\n```python\nb\n```</answer>", "b\n"),
        (">```python\n>a\n>```", "a\n"),
        ("**Code:** ```python\na\n```\nIt prints\n```\n3\n```", "a\n"),
        ("```python\na\nb```", "a\nb\n"),
        ("Code: ```python\na\nb```\nThat is `all`.", "a\nb\n"),
        ("```python\na\n```\n\n- or\n  ```python\n  b\n  ```", "b\n"),
        ("```python\na\n```python\nb\n```", "b\n"),  # the first was never closed
        ("```python\na\n\n```bash\nls\n```", "a\n\n```bash\nls\n"),  # as CommonMark has it
        (f"```python\n{DOCSTRING}```", DOCSTRING),
        (f"```python\n{DOCSTRING}{DOCSTRING}```\ntext", 2 * DOCSTRING),
        (f"```python\n{AT_MARGIN}```\ntext", AT_MARGIN),
        (textwrap.indent(f"```python\n{AT_MARGIN}```\n", "  ") + "text", AT_MARGIN),
        ('```python\nx = """\n```\ntext', 'x = """\n'),  # nothing closes the string: the fence does
        ("```python\r\na\r\n```\r\n", "a\n"),
        ("```python\rb = 1\r```\r", "b = 1\n"),
        ("```\na\n```\n```cpp\nb\n```", "a\n"),
        ("```python\n```", ""),
        ("`````python\na\n`````", "a\n"),
        ("Use ```python``` for code.", None),
        ("``` a ``` and ```b```", None),
    ],
)
def test_forms_of_fences(completion, program):
    assert extract_code(completion) == program


FAMILIES = {
    "openings": "```python\n",
    "fences": "```\n",
    "blocks": "```python\na\n```\n",
    "tildes": "~~~python\na\n",
    "docstrings": '```python\n"""\n```python\n```\n',
    "open strings": "```python\n'''\n```\n",
    "indented": "        ```\n",
    "list items": "- ```python\n  a\n  ```\n",
    "quotes": "> ```python\n",
    "in lines": "a ```python\n",
    "at ends of lines": "a```\n",
    "backticks": "`",
    "spaces": " ",
    "letters": "a",
    "tilde": "~",
    "nested lists": "- ",
    "nested quotes": "> ",
    "carriage returns": "\r",
    "paragraphs": "word\n",
    "references": "[a]: b '\n",
    "underlines": "a\n===\n",
    "html": "<div>\n",
    "tags": "<a>```</a>",
}


@pytest.mark.parametrize("unit", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize(
    "form", ["{}", "```python\n{}\n```\n", 'a ```python\n"""{}\n', "```{}`\n", "```python\n~~~{}`\n```\n"]
)
def test_time_grows_with_the_length_only(unit, form):
    """Eight times the text takes at most sixteen times as long: quadratic time would be 64 times."""

    def seconds(size: int) -> float:
        text = form.format(unit * (size // len(unit)))
        taken = []
        for _ in range(2):
            start = time.process_time()
            extract_code(text)
            taken.append(time.process_time() - start)
        return min(taken)

    assert seconds(32_000) < 16 * seconds(4_000) + 0.01
