"""How often the rewards are right on graded answers, by kind and by group: ours and, if asked, TRL's `accuracy_reward`.

Each file has one JSON object a line, with `family` or `kind`, `group` where there is one, `expected`, and

- `completion`, and `gold` or `solution`: whether `math_reward` is to accept it; null: no expectation;
- or `program` (a completion) and `tests`: the same of `code_reward`;
- or `completion` and `letters`: the letter of a multiple-choice answer; null: none is given.

    python scripts/reward_accuracy.py tests/data/answers_2.jsonl tests/data/answers_3.jsonl
    python scripts/reward_accuracy.py tests/data/answers_2.jsonl --missed --trl
"""

import argparse
import collections
import json
import logging
from pathlib import Path


def trl_scores(completions: list[str], golds: list[str]) -> list[float | None]:
    """TRL's scores. Golds in `$...$`, since it misreads bare ones; an answer that raises counts as 0."""
    from trl.rewards import accuracy_reward

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    scores = []
    for completion, gold in zip(completions, golds, strict=True):
        try:
            scores += accuracy_reward([[{"role": "assistant", "content": completion}]], [f"${gold.strip('$')}$"])
        except Exception:  # what it raises depends on the answer
            scores.append(0.0)
    return scores


def read_cases(path: Path) -> list[dict]:
    """The cases with an expectation, with `group` and `kind`."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        {**row, "group": row.get("group", ""), "kind": row.get("kind") or row.get("family") or "all"}
        for row in rows
        if row["expected"] is not None or "letters" in row
    ]


def right_programs(cases: list[dict]) -> list[bool]:
    from delta_trl.rewards import code_reward

    scores = code_reward([case["program"] for case in cases], [case["tests"] for case in cases])
    return [float(score or 0.0) == case["expected"] for score, case in zip(scores, cases, strict=True)]


def right_choices(cases: list[dict]) -> list[bool]:
    from delta_trl.evaluation.multiple_choice import answer_letter

    return [answer_letter(case["completion"], case["letters"]) == case["expected"] for case in cases]


def right_answers(cases: list[dict], beside_trl: bool) -> dict[str, list[bool]]:
    from delta_trl.rewards import grade

    completions, golds = [case["completion"] for case in cases], [gold_of(case) for case in cases]
    scores = {"ours": [verdict.score for verdict in grade(completions, golds)]}
    if beside_trl:
        scores["TRL"] = trl_scores(completions, golds)
    return {
        name: [float(score or 0.0) == case["expected"] for score, case in zip(found, cases, strict=True)]
        for name, found in scores.items()
    }


def gold_of(case: dict) -> str:
    return case["gold"] if "gold" in case else case["solution"]


def print_table(cases: list[dict], is_right: dict[str, list[bool]]) -> None:
    """Right verdicts by group and kind, then by group, then of all and of the wrong answers alone."""
    rows = collections.defaultdict(list)
    for i, case in enumerate(cases):
        rows[f"{case['group']}: {case['kind']}" if case["group"] else case["kind"]].append(i)
    rows = dict(sorted(rows.items())) if any(case["group"] for case in cases) else dict(rows)
    for group in sorted({case["group"] for case in cases} - {""}):
        rows[f"all of {group}"] = [i for i, case in enumerate(cases) if case["group"] == group]
    rows["all"] = list(range(len(cases)))
    rows["wrong answers, refused"] = [i for i, case in enumerate(cases) if not case["expected"]]
    width = max(map(len, rows))
    print(f"| {'kind':<{width}} | cases | {' | '.join(f'{name:>6}' for name in is_right)} |")
    print(f"|:{'-' * width}-|------:|{'|'.join('-' * 7 + ':' for _ in is_right)}|")
    for name, members in rows.items():
        right = " | ".join(f"{sum(found[i] for i in members):6d}" for found in is_right.values())
        print(f"| {name:<{width}} | {len(members):5d} | {right} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--trl", action="store_true", help="TRL's reward beside ours.")
    parser.add_argument("--missed", action="store_true", help="List what ours gets wrong, with the rule that decided.")
    options = parser.parse_args()

    from delta_trl.rewards import explain

    for path in options.files:
        cases = read_cases(path)
        if "program" in cases[0]:
            is_right = {"ours": right_programs(cases)}
        elif "letters" in cases[0]:
            is_right = {"ours": right_choices(cases)}
        else:
            is_right = right_answers(cases, options.trl)
        print(f"\n{path.name}\n")
        print_table(cases, is_right)
        if options.missed:
            for case, right in zip(cases, is_right["ours"], strict=True):
                if not right:
                    print(f"\nexpected {case['expected']}: {case['group']} {case['kind']}")
                    has_gold = "gold" in case or "solution" in case
                    print(explain(gold_of(case), completion=case["completion"]) if has_gold else case)


if __name__ == "__main__":
    main()
