"""Summaries, tables and comparisons of sample files made by hand."""

import itertools
import json
import re
from pathlib import Path

import pytest

from delta_trl.evaluation.compare import main as compare
from delta_trl.evaluation.graders import GRADERS
from delta_trl.evaluation.results import write_comparison, write_results
from delta_trl.evaluation.samples import SampleFile, plan, read_evaluation
from delta_trl.evaluation.summary import (
    OVERALL,
    answer_groups,
    compare_runs,
    leaders,
    no_answer_warning,
    summarise,
)
from delta_trl.evaluation.tables import WHY_PAIRED, paper_table


SETTINGS = {
    "model": "m", "base_model": None, "revision": None, "backend": "vllm", "dtype": "auto", "samples": 4,
    "temperature": 1.0, "top_p": 0.7, "top_k": 0, "max_tokens": 30000, "seed": 0, "prompt_format": "paper",
    "system_prompt": None, "versions": {"vllm": "0.31.0"},
}  # fmt: skip
# Benchmarks with their (answers of four samples, correct answer) by problem.
SMALL = {
    "aime_a": {"p": (["3", "3", "4", None], "3"), "q": (["5", "6", "6", "5"], "5")},
    "hmmt_b": {"p": (["1/2", "0.5", r"\frac{1}{2}", "7"], "1/2"), "q": ([None] * 4, "9"), "r": (["8"] * 4, "9")},
}


def write(path: Path, benchmarks: dict = SMALL, skip: set = frozenset(), **settings) -> Path:
    file = SampleFile(path)
    for name, problems in benchmarks.items():
        file.begin([plan(name, name.upper(), f"print of {name}", list(problems), 4, {**SETTINGS, **settings})])
        for problem, (answers, gold) in problems.items():
            right = {gold, "0.5", r"\frac{1}{2}"} if gold == "1/2" else {gold}
            file.append(
                {
                    "benchmark": name, "problem": problem, "sample": i, "answer": answer,
                    "score": float(answer in right), "tokens": 10 * (i + 1), "truncated": i == 3,
                    "reason": "no box" if answer is None else "correct" if answer in right else "wrong",
                }
                for i, answer in enumerate(answers)
                if (name, problem) not in skip
            )  # fmt: skip
    return path


def test_a_summary_by_hand(tmp_path):
    a, b, together = summarise(read_evaluation(write(tmp_path / "run.jsonl")))
    assert (a.title, b.title, together.title) == ("AIME_A", "HMMT_B", OVERALL)
    assert a.average.value == 4 / 8
    assert b.average.value == 3 / 12
    assert together.average.value == 7 / 20  # over five problems, not (1/2 + 1/4) / 2
    # p: 3 wins; q: a tie of 5 and 6. p: one half, three ways to write it; q: no answer; r: wrong.
    assert a.majority.value == pytest.approx((1 + 0.5) / 2)
    assert b.majority.value == pytest.approx(1 / 3)
    # p: c = 2, q: c = 2 of 4: 1 - C(2,2)/C(4,2) = 5/6 both.
    assert a.pass_at[2].value == pytest.approx(5 / 6)
    assert sorted(a.pass_at) == [1, 2, 4]
    assert (a.mean_tokens, a.truncated, a.no_answer, a.no_box) == (25, 0.25, 1 / 8, 1 / 8)
    assert together.no_answer == pytest.approx(5 / 20)
    assert together.problems == 5


def test_equal_answers_are_grouped_by_the_rewards_checker():
    assert GRADERS["math"].same([("0.5", "1/2"), (r"\frac{1}{2}", "0.5"), ("7", "1/2"), ("x+1", "1+x")]) == [
        True, True, False, True,
    ]  # fmt: skip


def test_problems_without_a_sample_count_as_wrong_and_are_listed(tmp_path):
    path = write(tmp_path / "run.jsonl", skip={("aime_a", "q")})
    a, _, together = summarise(read_evaluation(path))
    assert a.average.value == 2 / 8
    assert (a.missing, a.without_sample) == (4, ["q"])
    assert together.without_sample == ["AIME_A q"]
    text = write_results([path], tmp_path)
    assert "4 of 8 samples are missing and count as wrong" in text
    assert "no sample at all, counted as wrong, of the problems q" in text


def test_one_table_in_all_formats(tmp_path):
    better = {"aime_a": {"p": (["3"] * 4, "3"), "q": (["5"] * 4, "5")}, "hmmt_b": SMALL["hmmt_b"]}
    files = [write(tmp_path / "dapo.jsonl"), write(tmp_path / "delta_8b.jsonl", better, model="d")]
    text = write_results(files, tmp_path)
    assert re.search(r"\| dapo +\| +50\.00 ± 0\.00 \| +25\.00 ± 25\.00 \| +35\.00 ± 15\.00 \|", text)
    assert "**" not in text  # 50 points, on two problems alone
    assert "5 problems the same" in text
    assert "4 samples a problem, temperature 1.0, top-p 0.7" in text
    markdown = (tmp_path / "results.md").read_text()
    assert "|          |" in markdown.splitlines()[0]
    assert "| 100.00 ± 0.00 |" in markdown
    latex = (tmp_path / "results.tex").read_text()
    assert r"delta\_8b & 100.00 $\pm$ 0.00" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["runs"]["dapo"]["benchmarks"][2]["average"]["value"] == 7 / 20
    assert content["runs"]["delta_8b"]["settings"]["model"] == "d"


def many(right: int, problems: int = 20) -> dict:
    """Problems whose four answers are all right, for the first so many, and all wrong for the others."""
    return {"big": {f"p{i:02}": (["1" if i < right else "0"] * 4, "1") for i in range(problems)}}


@pytest.mark.parametrize(
    ("right", "settings", "bold"),
    [
        ((6, 16), {}, True),
        ((6, 8), {}, False),  # ten points, within the interval
        ((6, 16), {"max_tokens": 20480}, False),
        ((6, 16), {"prompt_format": "chat"}, False),
        ((6, 16), {"limit": 20}, False),
        ((6, 6), {}, False),
    ],
)
def test_only_a_difference_that_can_be_told_from_chance_is_bold(tmp_path, right, settings, bold):
    files = [write(tmp_path / "base.jsonl", many(right[0])), write(tmp_path / "new.jsonl", many(right[1]), **settings)]
    for text in (
        write_results(files, tmp_path),
        write_comparison(files, tmp_path, allow_different_settings=True, plot=False),
    ):
        assert re.findall(r"\*\*.*?\*\*", text) == ["**80.00 ± 9.18**"] * bold
        assert ("No figure is bold: with different settings" in text) == bool(settings)
        assert f"{', '.join(settings)} is" in text or not settings  # and which, with both values
    assert (r"\textbf{80.00" in (tmp_path / "results.tex").read_text()) == bold


def test_a_leader_leads_every_other_run(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", many(n)) for name, n in (("a", 2), ("b", 15), ("c", 18))]
    assert leaders([read_evaluation(file) for file in files]) == {}  # not surely better than b
    assert leaders([read_evaluation(file) for file in files[:2]]) == {"BIG": "b"}
    both = [
        write(tmp_path / f"{name}.jsonl", {**many(n), "one": {"p": (["1"] * 4, "1")}})
        for name, n in (("d", 2), ("e", 15))
    ]
    assert leaders([read_evaluation(file) for file in both]) == {"BIG": "e"}  # a single problem has no interval


def test_a_comparison_by_hand_and_on_disk(tmp_path):
    """Against a run that is all wrong: differences 1/2, 1/2 and 3/4, 0, 0."""
    wrong = {name: {p: (["0"] * 4, gold) for p, (_, gold) in of.items()} for name, of in SMALL.items()}
    files = [write(tmp_path / "zero.jsonl", wrong), write(tmp_path / "one.jsonl"), write(tmp_path / "two.jsonl")]
    runs = [read_evaluation(file) for file in files]
    compared = compare_runs(runs[0], runs[1:])
    assert [(row.run, row.title) for row in compared] == [
        ("one", "AIME_A"), ("one", "HMMT_B"), ("two", "AIME_A"), ("two", "HMMT_B"), ("one", OVERALL), ("two", OVERALL),
    ]  # fmt: skip
    whole = compared[4]
    assert whole.comparison.difference == pytest.approx(7 / 20)
    assert whole.comparison.p_sign_flip == pytest.approx(2 / 8)  # three problems differ
    assert whole.comparison.exact
    assert whole.p_holm == pytest.approx(4 / 8)  # two comparisons of whole suites
    assert compared[0].p_holm == 1  # four of single benchmarks
    assert whole.comparison.low < 7 / 20 < whole.comparison.high

    text = write_comparison(files, tmp_path)
    assert WHY_PAIRED in text
    assert re.search(
        r"one +\| +Avg\. \| +5 \| +\+35\.00 \| +\[[-+.\d]+, [-+.\d]+\] \| +0\.2500 \| +0\.5000 \| +0\.0\d+", text
    )
    assert (tmp_path / "differences.png").read_bytes().startswith(b"\x89PNG")
    assert "Mann-Whitney" in (tmp_path / "comparison.md").read_text()
    assert json.loads((tmp_path / "comparison.json").read_text())["comparison"][4]["p_holm"] == pytest.approx(0.5)


def test_runs_with_different_settings_are_refused_unless_allowed(tmp_path):
    files = [write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl", temperature=0.6, model="other")]
    with pytest.raises(ValueError, match=r"different settings: temperature: 1\.0 and 0\.6\. A difference"):
        write_comparison(files, tmp_path, plot=False)
    text = write_comparison(files, tmp_path, allow_different_settings=True, plot=False)
    assert "Different settings: temperature is 1.0 for a and 0.6 for b." in text


def test_runs_on_other_problems_are_refused(tmp_path):
    a = write(tmp_path / "a.jsonl")
    fewer = write(tmp_path / "b.jsonl", {"aime_a": SMALL["aime_a"]})
    with pytest.raises(ValueError, match="Evaluate both on the same ones"):
        write_comparison([a, fewer], tmp_path)
    with pytest.raises(ValueError, match="same benchmarks in every run"):
        write_results([a, fewer], tmp_path)
    changed = tmp_path / "c.jsonl"
    changed.write_text(a.read_text().replace("print of aime_a", "another print"))
    with pytest.raises(ValueError, match="'aime_a' does not have the same problems"):
        write_comparison([a, changed], tmp_path)


def test_runs_with_one_name_are_refused(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match="two have the same name"):
        write_results([write(tmp_path / "a.jsonl"), write(tmp_path / "x" / "a.jsonl")], tmp_path)


def test_unknown_styles_are_refused(tmp_path):
    with pytest.raises(ValueError, match="style is one of"):
        paper_table({"a": summarise(read_evaluation(write(tmp_path / "a.jsonl")))}, "html")


def test_the_comparison_command(tmp_path, capsys):
    files = [str(write(tmp_path / "a.jsonl")), str(write(tmp_path / "b.jsonl"))]
    compare([*files, "--output", str(tmp_path), "--no_plot"])
    assert "+0.00" in capsys.readouterr().out
    assert not (tmp_path / "differences.png").exists()
    compare([files[0], "--output", str(tmp_path)])
    assert "+0.00" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        compare([*files, "--seed", "-1"])
    assert capsys.readouterr().err == "error: --seed must be at least 0, got -1.\n"
    Path(files[1]).write_text('{"benchmark": "x"}\n')
    with pytest.raises(SystemExit, match="2"):
        compare(files)
    assert re.match(r"error: .*b\.jsonl: problem, sample, .* is missing", capsys.readouterr().err)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_majority_does_not_depend_on_the_order_of_samples(tmp_path, order):
    """Wrong answers whose equality is not transitive, and a correct one spelled in two ways."""
    answers = [("aa", 0.0), ("b", 0.0), ("ccc", 0.0), ("4", 1.0)]
    file = SampleFile(tmp_path / "run.jsonl")
    file.begin([plan("x", "X", "", ["p"], 5, {**SETTINGS, "samples": 5})])
    given = [*(answers[i] for i in order), ("4.0", 1.0)]
    file.append(
        {"benchmark": "x", "problem": "p", "sample": i, "answer": answer, "score": score, "tokens": 1,
         "truncated": False, "reason": ""}
        for i, (answer, score) in enumerate(given)
    )  # fmt: skip
    evaluation = read_evaluation(file.path)
    chain = {("aa", "b"), ("ccc", "aa")}  # "ccc" and "b" are not equal to the checker
    (groups,) = answer_groups(evaluation.benchmarks["x"], lambda pairs: [pair in chain for pair in pairs])
    assert len({group for group, (_, score) in zip(groups, given, strict=True) if score == 0}) == 1
    assert len(set(groups)) == 2
    (summary,) = summarise(evaluation, same=lambda pairs: [pair in chain for pair in pairs])
    assert summary.majority.value == 0  # three wrong against two correct
    (summary,) = summarise(evaluation, same=lambda pairs: [pair == ("aa", "b") for pair in pairs])
    assert summary.majority.value == 1 / 2  # a tie of two


def test_a_warning_names_what_probably_keeps_answers_from_their_boxes(tmp_path):
    def warning(samples, backend="transformers"):
        settings = {"max_tokens": 30, "prompt_format": "paper", "backend": backend}
        return no_answer_warning(samples, settings, {"m": "math", "c": "choice", "p": "code"})

    cut, out, lost, fine = (
        {"benchmark": "m", "answer": answer, "truncated": truncated, "tokens": tokens}
        for answer, truncated, tokens in ((None, True, 30), (None, True, 12), (None, False, 9), ("4", False, 9))
    )
    assert warning([fine] + [lost] * 9) is None
    assert warning([]) is None
    assert re.match(r"19 of 20 .* prompt format 'paper' .* --prompt_format", warning([fine] + [lost] * 19))
    assert re.match(r"20 of 20 .* token limit of 30: raise --max_tokens", warning([cut] * 11 + [lost] * 9))
    # Where the context ends first, more tokens cannot be asked for
    shorter = [cut] * 4 + [out] * 9 + [lost] * 7
    assert re.search(r"context ends, before --max_tokens 30: take a model with a longer context", warning(shorter))
    assert "raise --max_model_len, or take a model with a longer context" in warning(shorter, "vllm")
    # Each kind of benchmark is looked through for something of its own
    of_choice, of_code = ({**lost, "benchmark": name} for name in "cp")
    assert "20 of 20 completions have no letter and" in warning([of_choice] * 20)
    assert "have no boxed answer or fenced Python block or letter and" in warning([lost, of_choice, of_code] * 9)
    none = {"aime_a": {"p": ([None] * 4, "3")}}
    assert "Warning, run: 4 of 4 completions have no boxed answer" in write_results(
        [write(tmp_path / "run.jsonl", none)], tmp_path
    )
