"""The rule about thoughts holds in every kind of grading."""

import pytest

from delta_trl.evaluation.multiple_choice import grade_choice
from delta_trl.responses import after_thoughts, message_text, opens_thought, response_texts
from delta_trl.rewards.code.extraction import extract_code
from delta_trl.rewards.gym import read_answer
from delta_trl.rewards.math.extraction import extract_answer
from delta_trl.rewards.math.reasons import UNFINISHED_THOUGHT


@pytest.mark.parametrize(
    ("response", "rest"),
    [
        ("no thought", "no thought"),
        ("<think>a</think>b", "b"),
        ("a</think>b</think>c", "c"),
        ("<think>never closed", None),
        ("<think>a</think>b<think>c", None),
        ("", ""),
    ],
)
def test_what_follows_the_thoughts(response, rest):
    assert after_thoughts(response) == rest
    assert opens_thought(response) == (rest is None)


ANSWERS = r"""\boxed{B}
<answer>B</answer>
Answer: B
```python
B
```
"""


@pytest.mark.parametrize(
    ("before", "counts"),
    [("", True), ("<think>so</think>", True), ("so</think>", True), ("<think>", False), ("</think><think>", False)],
)
def test_every_grader_reads_by_the_same_rule(before, counts):
    text = before + ANSWERS
    assert (extract_answer(text)[0] is not None) == counts
    assert (read_answer(text) == "B") == counts
    assert (extract_code(text) == "B\n") == counts
    assert (grade_choice(text, "B", "AB").score == 1.0) == counts
    if not counts:
        assert extract_answer(text)[1] == grade_choice(text, "B", "AB").reason == UNFINISHED_THOUGHT


def test_an_opened_prompt_goes_before_the_completion():
    assert response_texts(["a", "b"], {"prompts": ["Q <think>", "Q"]}) == ["<think>a", "b"]
    assert response_texts([[{"role": "assistant", "content": "a"}]], {"opens_thought": [True]}) == ["<think>a"]


@pytest.mark.parametrize(
    ("conversation", "text"),
    [
        ([{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}], "a"),
        ([{"content": [{"type": "image"}, {"type": "text", "text": "a"}]}], "a"),
        ([{"role": "assistant", "content": None}], ""),
        ([{"role": "user", "content": "a"}], ""),
    ],
)
def test_the_last_message_of_the_model_counts(conversation, text):
    assert message_text(conversation) == text
