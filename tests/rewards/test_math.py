r"""What `math_reward` accepts and what it does not, row by row with the reason, and its contract with TRL."""

import json
import pickle
import subprocess
import sys
import time
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.places import DATA

from delta_trl.rewards import REASONS, grade, math_reward, scorable
from delta_trl.rewards.math.extraction import extract_answer
from delta_trl.rewards.math.numerals import literal
from delta_trl.rewards.math.spelling import canonical
from delta_trl.rewards.math.units import split_unit


# (completion, answer in the box or reason why there is none, why)
EXTRACTION = [
    (r"So $\boxed{3}$.", "3", "the plain case"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "balanced braces"),
    (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}", "escaped braces are no delimiters"),
    (r"\boxed{1} or maybe \boxed{2}, no: \boxed{3}", "3", "prose between boxes: the last one"),
    (r"So $\boxed{1}$ and $\boxed{2}$, $\boxed{3}$", "1, 2, 3", "only and, comma, dollars between: one answer"),
    (r"\[\boxed{1}\] or \[\boxed{2}\]", "1, 2", "display mathematics between"),
    (r"\boxed{3}\boxed{3}", "3", "the same box twice"),
    (r"\boxed{3} so \boxed{}", "", "the last box is empty"),
    (r"\boxed{3} so \boxed{", "no box", "the last box is never closed"),
    (r"\boxed{\boxed{3}}", "{3}", "a box in a box"),
    (r"\boxed{1, \boxed{3}}", "1, {3}", "the outer box counts, so the inner one cannot hide its neighbour"),
    (r"<think>\boxed{4}</think> Hence \boxed{3}", "3", "after the thought"),
    (r"<think>try \boxed{3} and keep thinking", "unfinished thought", "the thought is never closed"),
    (r"<think>a</think> <think>\boxed{3}", "unfinished thought", "a second thought is never closed"),
    (r"<think>\boxed{3}</think> I am done.", "no box", "the box is in the thought"),
    ("answer: $3$", "no box", "no box"),
    (r"\fbox{7}", "7", "fbox"),
    (r"\boxed 72.", "72", "no braces"),
    (r"\\boxed{72}", "72", "LaTeX written as if in a JSON string"),
    ("", "no box", "nothing"),
    (r"\boxedanswer{3}", "no box", "another command"),
]


@pytest.mark.parametrize(("completion", "expected", "why"), EXTRACTION)
def test_answer_is_taken_from_the_last_box(completion, expected, why):
    answer, reason = extract_answer(completion)
    assert (answer if reason is None else reason) == expected, why


# (gold, answer, score, why)
VERDICTS = [
    # Notation
    ("3", "+3", 1, "sign"),
    ("025", "25", 1, "AIME's leading zero"),
    ("3", "(3)", 1, "parentheses"),
    ("1234", "1,234", 1, "thousands"),
    ("1234", r"1{,}234", 1, "thousands"),
    ("1234", r"1\,234", 1, "thousands"),
    ("10080", r"10,\!080", 1, "thousands"),
    ("32349", "32, 349", 0, "a comma and a space make a list"),
    ("12", "1 2", 0, "two numbers"),
    ("1234", "(1,234)", 0, "a pair"),
    ("1.22", "1,22", 1, "decimal comma"),
    ("0.25", ".25", 1, "no leading zero"),
    ("5", "5.0", 1, "trailing zero"),
    ("1500", r"1.5\times 10^{3}", 1, "scientific notation"),
    (r"\frac{3}{2}", r"1\frac{1}{2}", 1, "mixed number"),
    (r"137\frac{1}{2}", "137.5", 1, "mixed number"),
    (r"\frac{1}{2}", r"1\frac{1}{2}", 0, "a mixed number is no product"),
    (r"\frac{1}{2}", r"\dfrac12", 1, "brace-less fraction"),
    (r"\frac9{19}", r"\frac{9}{19}", 1, "half brace-less fraction"),
    (r"\frac{270}7", r"\frac{270}{7}", 1, "half brace-less fraction"),
    (r"\frac{1}{2}", "2/4", 1, "not in lowest terms"),
    (r"11\sqrt2", r"\sqrt{2}\cdot 11", 1, "brace-less root"),
    (r"\frac{9\pi}{4}", r"\tfrac94\pi", 1, "brace-less fraction"),
    (r"\frac{1}{2}", "½", 1, "Unicode"),
    (r"\frac{5}{2}", "2½", 1, "Unicode mixed number, which plain NFKC reads as 21/2"),
    ("x^2", "x²", 1, "Unicode superscript, which plain NFKC reads as x2"),
    (r"2\pi", "2π", 1, "Unicode"),
    (r"2\sqrt{3}", "2√3", 1, "Unicode"),
    ("3", "3\u200b", 1, "zero-width space"),
    ("-3", "\u22123", 1, "minus sign"),
    ("3", "３", 1, "full-width digit"),
    ("3", "٣", 1, "Arabic-Indic digit"),
    ("3", "3\ud800", 0, "a lone surrogate is not to be repaired"),
    (r"\infty", "infinity", 1, "word"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}", 1, "bracket style of a matrix"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\left[\begin{array}{cc}1&2\end{array}\right]", 1, "array"),
    # Bare golds: TRL's reward reads the first as 2 and the second as 3
    (r"2\sqrt{3}", r"\sqrt{12}", 1, "equal"),
    (r"2\sqrt{3}", "2", 0, "cut short"),
    ("x^2 + 3", "3+x^2", 1, "order"),
    ("x^2 + 3", "3", 0, "cut short"),
    (r"$\frac12$", "0.5", 1, "gold in dollars"),
    (r"\boxed{4}", "4", 1, "gold in a box"),
    ("10 / 2 = 5\n#### 5", "5", 1, "gold as in GSM8K"),
    # Words
    ("Yes", "Yes", 1, "bare word: TRL's reward skips it"),
    ("Yes", r"\textbf{yes}", 1, "style and case"),
    ("Yes", "No", 0, "wrong"),
    ("Yes", "Yes and No", 0, "both"),
    ("True", "Yes", 0, "policy: words are not translated"),
    ("No", "on", 0, "letters do not commute in words"),
    ("Monday", "dayMon", 0, "letters do not commute in words"),
    ("abc", "cba", 1, "a product of three variables is no word"),
    (r"\text{(C)}", "C", 1, "choice"),
    ("A", "a", 0, "two variables"),
    (r"\text{does not exist}", r"\text{DNE}", 0, "policy: no abbreviations in an answer"),
    (r"\text{DNE}", r"\text{does not exist}", 1, "an abbreviated gold, written out"),
    ("3", "three", 1, "a number in words"),
    ("3", "thirty", 0, "and only small ones"),
    # Decimals
    (r"\frac13", "0.3333333", 1, "seven digits"),
    (r"\frac17", "0.142857", 1, "six digits"),
    (r"\frac13", "0.33", 0, "too few"),
    (r"\pi", "3.14159265", 1, "eight decimals"),
    (r"\pi", "3.14", 0, "too few"),
    (r"\pi", r"\frac{22}{7}", 0, "an approximation"),
    (r"\sqrt{2}", "1.41421356", 1, "eight decimals"),
    ("5", "4.9999999", 0, "integers must be met exactly"),
    ("10^{-9}", "0.0000004", 0, "two tiny numbers"),
    ("10^{-9}", "0", 0, "tiny is not zero"),
    ("e^{-50}", "e^{-60}", 0, "two tiny numbers"),
    (r"\frac{\pi}{10^{20}}", r"\frac{\pi}{10^{30}}", 0, "two tiny numbers"),
    ("10^{20}", "10^{20}+1", 0, "huge and off by one"),
    # Percentages
    (r"\frac12", r"50\%", 1, "its value"),
    ("50", r"50\%", 0, "policy: one answer must not match a number and its hundredth"),
    (r"50\%", "50", 1, "the sign counts as a unit, which the gold has"),
    (r"50\%", "0.5", 1, "its value"),
    (r"50\%", r"5\%", 0, "wrong"),
    ("28 percent", r"28\%", 1, "the word"),
    # Units
    ("3", r"3\text{ cm}", 1, "a unit is optional"),
    (r"3\text{ cm}", "3", 1, "a unit is optional"),
    (r"3\text{ cm}", "3 centimeters", 1, "the same unit"),
    (r"3\text{ cm}", r"3\text{ m}", 0, "another unit"),
    (r"15\mbox{ cm}^2", r"15\text{ cm}^3", 0, "another power"),
    ("90", r"90^\circ", 1, "degrees"),
    (r"90^\circ", "90 degrees", 1, "degrees"),
    (r"\frac{\pi}{2}", r"90^\circ", 0, "policy: nothing is converted"),
    (r"\$18.90", "18.90", 1, "currency"),
    (r"\$5", "5 cents", 0, "another unit"),
    ("5", r"5\text{ million}", 0, "a factor is no unit"),
    ("5000000", r"5\text{ million}", 1, "a factor"),
    ("4210_{5}", "4210_5", 1, "base"),
    ("101_2", "101", 0, "base dropped"),
    ("5", "101_2", 0, "policy: another base"),
    # Work left undone
    ("55", r"\sum_{k=1}^{10} k", 0, "a sum"),
    (r"\frac{\pi^2}{6}", r"\sum_{n=1}^{\infty} \frac{1}{n^2}", 0, "a series"),
    ("3", r"\int_0^3 1\,dx", 0, "an integral"),
    ("3", "∫_0^3 dx", 0, "an integral in Unicode"),
    (r"\ln 2", r"\int_1^2 \frac{dx}{x}", 0, "an integral"),
    ("720", r"\prod_{k=1}^{6} k", 0, "a product"),
    ("3", r"3 + \lim_{n\to\infty}\frac1n", 0, "a limit"),
    ("6", r"\det\begin{pmatrix}1&2\\3&12\end{pmatrix}", 0, "a determinant"),
    ("-2", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", 0, "a determinant"),
    ("42", r"\gcd(84, 126)", 0, "a gcd"),
    ("9", r"7^{100} \mod 13", 0, "a residue"),
    ("3", r"\max(1, 3)", 0, "a maximum"),
    ("19", "3+5+9+2", 0, "a sum of numbers"),
    ("20", r"4 \cdot 5", 0, "a product of numbers"),
    ("1024", "2^{10}", 1, "policy: powers, factorials and binomials are closed forms"),
    ("120", r"\binom{10}{3}", 1, "a closed form"),
    ("3", r"\int_0^3 1\,dx = 3", 1, "the work, done"),
    (r"\int f", r"\int f", 1, "the gold has it too"),
    # Equations, chains, identities
    ("3", "x = 3", 1, "a name"),
    ("x = 3", "3", 1, "a name"),
    ("x = 3", "y = 3", 0, "another name"),
    ("x^2", "f(x) = x^2", 1, "a name"),
    ("3", "x = 1 + 2 = 3", 1, "a true chain"),
    ("3", r"\frac{6}{2} = 3", 1, "a true chain"),
    ("11", "x = 5 + 6 = 7 = 11", 1, "policy: after a name the last part counts"),
    ("3", "x = 3 = 4", 0, "the last part is wrong"),
    ("5", "2 + 3 = 5", 1, "a true chain of numbers"),
    ("5", "2 + 2 = 5", 0, "a false chain"),
    ("3", "5=3", 0, "a false chain"),
    ("3", "1=2=3", 0, "a false chain"),
    ("3", "3=3", 0, "an identity"),
    ("y", "y=y", 0, "an identity"),
    ("x=x", "y=y", 0, "identities"),
    ("1=0", "2=5", 0, "contradictions"),
    ("y = 2x + 3", "2x - y + 3 = 0", 1, "the same line"),
    ("y = 2x + 3", "y = 2x + 4", 0, "another line"),
    (r"\frac13", r"x = \frac13 \approx 0.33", 1, "rounded after the answer"),
    ("0.33", r"x = \frac13 \approx 0.33", 1, "the exact value of a rounded gold, which states the gold"),
    ("0.34", r"x = \frac13 \approx 0.34", 0, "not its rounding"),
    ("0.33", r"x = \frac13", 0, "the gold is not stated"),
    (r"x \ge 2", r"2 \le x", 1, "flipped"),
    ("x > 1", r"x \ge 1", 0, "another relation"),
    # Sets, tuples, intervals
    (r"\{1,2,3\}", r"\{3,1,2\}", 1, "order of a set"),
    ("1,-2", r"\{-2, 1\}", 1, "a list of solutions"),
    ("1,-2", "1,-2,3", 0, "one too many"),
    ("3", "3, 4", 0, "one too many"),
    ("3", r"3 \text{ or } 4", 0, "a guess"),
    ("3", "4; 3", 0, "a guess"),
    ("1, 2, 3", "1, 2, 3, ...", 0, "goes on"),
    ("2", r"\pm 2", 0, "one too many"),
    (r"\pm 2", "2, -2", 1, "both"),
    ("(1,2)", "(2,1)", 0, "order of a pair"),
    ("(1,2)", r"\{1,2\}", 0, "a pair is no set"),
    (r"\{1,2\}", "(1,2)", 0, "a set is no pair"),
    ("[1,2]", "[1,2)", 0, "half open"),
    ("[1,2]", "(1,2)", 0, "open"),
    (r"\mathbb{R}\setminus\{1\}", r"(-\infty,1)\cup(1,\infty)", 1, "two notations"),
    (r"x \in [-2,7]", "[-2,7]", 1, "a name"),
    (r"(1,\infty)", "x > 1", 0, "policy of math-verify: an interval asks for one"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", 0, "a row is no column"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", 0, "a determinant"),
    # Algebra
    ("x^2-2x+1", "(x-1)^2", 1, "factored"),
    (r"\sin^2 x", r"1 - \cos^2 x", 1, "identity"),
    ("|x|", r"\sqrt{x^2}", 1, "identity on the reals"),
    ("|x|", "x", 0, "differs for negative x"),
    ("x+1", "y+1", 0, "another variable"),
    ("x^2", "x^2 + C", 0, "policy: a constant of integration is part of the answer"),
    ("6-5i", "-5i+6", 1, "complex"),
    ("1+i", r"\sqrt{2}e^{i\pi/4}", 1, "complex"),
    ("2i", "(1+i)^2", 1, "complex"),
    ("3", "x", 0, "a variable"),
    # Groups
    (r"\mathbb{Z}/4\mathbb{Z}", r"\mathbb{Z}_4", 1, "two notations"),
    (r"\mathbb{Z}_2\times\mathbb{Z}_3", r"\mathbb{Z}_3 \oplus \mathbb Z_2", 1, "order of the factors"),
    (r"\mathbb{Z}_{2}\times\mathbb{Z}_{2}", r"\mathbb{Z}_{4}", 0, "the same order only"),
    # No answers
    ("3", "", 0, "empty"),
    ("3", "?", 0, "not mathematics"),
    ("0", r"\frac{0}{0}", 0, "undefined"),
]


@pytest.mark.parametrize(("gold", "answer", "score", "why"), VERDICTS)
def test_verdict(gold, answer, score, why):
    (verdict,) = grade([rf"Hence $\boxed{{{answer}}}$."], [gold])
    assert verdict.score == score, f"{why}: {verdict}"
    assert verdict.reason in REASONS


@pytest.mark.parametrize(
    ("completion", "gold", "reason"),
    [
        (r"\boxed{3}", "3", "correct"),
        (r"\boxed{4}", "3", "wrong"),
        ("3", "3", "no box"),
        (r"<think>\boxed{3}", "3", "unfinished thought"),
        (r"\boxed{\frac{1}}", "x+1", "unparseable answer"),
        (r"\boxed{}", "3", "unparseable answer"),
        (r"\boxed{\int x}", "x^2", "unevaluated"),
        (r"\boxed{9^{9^{9^{9}}}}", "5", "too costly"),
        (r"\boxed{\Gamma(10^{12})}", "7", "timed out"),
        (r"\boxed{3}", r"\frac{1}{", "unscorable gold"),
        (r"\boxed{3}", "", "unscorable gold"),
        (r"\boxed{3}", None, "unscorable gold"),
        ("no box at all", None, "unscorable gold"),
    ],
)
def test_every_reason_is_given_and_only_bad_golds_score_none(completion, gold, reason):
    (verdict,) = grade([completion], [gold])
    assert verdict.reason == reason
    assert verdict.score == {"correct": 1.0, "unscorable gold": None}.get(reason, 0.0)


def neighbour(gold: str) -> str:
    """A wrong answer that looks like the gold: its last digit is another one."""
    for i in reversed(range(len(gold))):
        if gold[i].isdigit():
            return gold[:i] + str((int(gold[i]) + 1) % 10) + gold[i + 1 :]
    return r"\text{neither}" if "text" in gold else gold + "+1"


@pytest.mark.parametrize("wrapped", ["{}", "${}$"])
@pytest.mark.parametrize("source", ["math500", "aime24"])
def test_real_golds_score_one_in_a_box_and_their_neighbours_zero(source, wrapped):
    if source == "math500":
        golds = [json.loads(line)["final_answer"] for line in (DATA / "math500.jsonl").open(encoding="utf-8")]
    else:
        golds = json.loads((DATA / "aime24_answers.json").read_text())
    is_scorable = scorable([wrapped.format(gold) for gold in golds])
    assert sum(is_scorable) >= 0.99 * len(golds)
    solutions = [wrapped.format(gold) for gold in golds]
    right = grade([rf"Thus $\boxed{{{gold}}}$." for gold in golds], solutions)
    assert [v.score for v in right] == [1.0] * len(golds)
    wrong = grade([rf"Thus $\boxed{{{neighbour(gold)}}}$." for gold in golds], solutions)
    accepted = [(gold, v) for gold, v, ok in zip(golds, wrong, is_scorable, strict=True) if ok and v.score != 0.0]
    assert not accepted


def test_scorable_finds_golds_that_no_answer_can_be_compared_with():
    golds = [
        "3",
        "Yes",
        r"\frac{1}{2}",
        "x^2+1",
        r"(1, \infty)",
        r"\mathbb{Z}_2",
        "",
        None,
        r"\frac{1}{",
        r"\frac{2}{0}",
    ]
    assert scorable(golds) == [True] * 6 + [False] * 4
    # The check replaces numbers by others; that must neither hide nor make a division by zero.
    assert scorable([r"\frac{1}{3-2}", r"\frac{7}{0}", r"\frac{1}{10}\sqrt{13}"]) == [True, False, True]
    sentence = "The series converges absolutely by the comparison test, and the limit is not zero in general."
    assert scorable([sentence, "9^{9^{9^{9}}}", "1" * 5000]) == [False] * 3


def test_rewards_for_plain_and_conversational_completions_and_logged_columns():
    extra, metrics = {}, {}
    texts = [r"\boxed{3}", r"\boxed{4}", "none", r"\boxed{3}"]
    golds = ["3", "3", "3", None]
    conversations = [
        [{"role": "assistant", "content": texts[0]}],
        [{"role": "assistant", "content": [{"type": "text", "text": texts[1]}]}],
        [{"role": "assistant", "content": r"\boxed{3}"}, {"role": "tool", "content": "3"}, {"content": texts[2]}],
        [{"role": "assistant", "content": texts[3]}],
    ]
    rewards = math_reward(
        completions=texts, solution=golds, log_extra=extra.__setitem__, log_metric=metrics.__setitem__
    )
    assert rewards == [1.0, 0.0, 0.0, None]
    assert math_reward(completions=conversations, solution=golds, prompts=["p"] * 4, topic=["t"] * 4) == rewards
    assert extra == {"answer": ["3", "4", "", "3"], "verdict": ["correct", "wrong", "no box", "unscorable gold"]}
    assert metrics["math_reward/correct"] == metrics["math_reward/no_box"] == 0.25
    assert metrics["math_reward/timed_out"] == metrics["math_reward/unparseable_answer"] == 0.0
    assert sum(metrics.values()) == 1.0
    assert len(metrics) == len(REASONS)


def test_a_prompt_that_opens_the_thought_makes_an_unclosed_one_unfinished():
    prompts = ["Assistant: <think>\n", "Assistant: <think>\n", "Assistant:"]
    completions = [r"\boxed{3}", r"hm </think> \boxed{3}", r"\boxed{3}"]
    assert math_reward(completions=completions, solution=["3"] * 3, prompts=prompts) == [0.0, 1.0, 1.0]


def test_mismatched_lengths_are_refused():
    with pytest.raises(ValueError, match="2 completions and 1 solutions"):
        grade(["a", "b"], ["1"])


def test_reward_is_picklable_by_name_and_needs_no_heavy_import():
    assert pickle.loads(pickle.dumps(math_reward)) is math_reward
    code = (
        "import sys, delta_trl.rewards as r; assert r.grade([r'\\boxed{\\sqrt8}'], [r'2\\sqrt2'])[0].score == 1.0; "
        "print(sorted({'torch', 'trl', 'transformers', 'datasets', 'sympy', 'math_verify'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert output.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "text",
    [
        "$" * 200_000,
        "{" * 200_000,
        "}" * 200_000,
        "\\" * 200_000,
        r"\boxed{" * 30_000,
        r"\boxed{1} and " * 20_000,
        r"\boxed{" + "(" * 100_000 + "}",
        r"\boxed{" + "(" * 2900 + "}",
        r"\boxed{" + r"\frac" * 1200 + "}",
        r"\boxed{" + r"\sqrt" * 1200 + "}",
        r"\boxed{" + "1 " * 2900 + "}",
        r"\boxed{" + "1," * 2900 + "}",
        r"\boxed{" + "x^" * 2900 + "}",
    ],
    ids=lambda text: text[:12] + "..." + text[-4:],
)
def test_text_alone_cannot_keep_the_checker_busy(text):
    start = time.process_time()  # of this process: the workers have limits of their own
    grade([text + r" \boxed{5}", text], ["5", "5"])
    assert time.process_time() - start < 3


PIECES = (r"\frac \sqrt { } ( ) [ ] $ , . ; = 1 23 x ^ _ \boxed{ \text{ \left \right \pi \{ \} % \\ & and e ½ ² ",)
LATEX = st.lists(st.sampled_from([piece for line in PIECES for piece in line.split(" ")]), max_size=30).map("".join)


@given(text=LATEX)
@example(text=r"\\\\\frac")
@settings(max_examples=300)
def test_canonical_spelling_is_a_fixed_point_and_never_fails(text):
    extract_answer(text)
    once = canonical(text)
    literal(split_unit(once)[0])
    assert canonical(once) == canonical(canonical(once))


@given(over=st.integers(-10_000, 10_000), under=st.integers(1, 500), other=st.integers(-10_000, 10_000))
def test_rationals_are_equal_exactly_if_they_are_equal(over, under, other):
    spellings = [rf"\frac{{{over}}}{{{under}}}", f"{over}/{under}"]
    value = Fraction(over, under)
    if value.denominator == 1:
        spellings += [f"{int(value):,}", f"{value}.0"]
    verdicts = grade([rf"\boxed{{{s}}}" for s in spellings], [rf"\frac{{{other}}}{{{under}}}"] * len(spellings))
    assert [v.score for v in verdicts] == [float(over == other)] * len(spellings)
