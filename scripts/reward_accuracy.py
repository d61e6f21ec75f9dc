"""How often the reward is right on graded answers, by family: ours and TRL's `accuracy_reward`.

The file has one JSON object a line: `completion`, `gold`, `expected` (1, 0, or null: no expectation), `family`.

    python scripts/reward_accuracy.py tests/data/answers_2.jsonl
    python scripts/reward_accuracy.py tests/data/answers_2.jsonl --missed
"""

import argparse
import collections
import json
import logging
from pathlib import Path


def trl_scores(completions: list[str], golds: list[str]) -> list[float | None]:
    """TRL's scores. Golds in `$...$`, since it misreads bare ones; an answer that raises counts as 0."""
    from trl.rewards import accuracy_reward

    logging.disable(logging.WARNING)
    scores = []
    for completion, gold in zip(completions, golds, strict=True):
        try:
            scores += accuracy_reward([[{"role": "assistant", "content": completion}]], [f"${gold}$"])
        except Exception:  # what it raises depends on the answer
            scores.append(0.0)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--no_trl", action="store_true", help="Leave TRL's reward out.")
    parser.add_argument("--missed", action="store_true", help="List what ours gets wrong.")
    options = parser.parse_args()

    from delta_trl.rewards import grade

    with options.file.open(encoding="utf-8") as file:
        cases = [case for case in map(json.loads, file) if case["expected"] is not None]
    completions, golds = [case["completion"] for case in cases], [case["gold"] for case in cases]
    verdicts = grade(completions, golds)
    scores = {"ours": [verdict.score for verdict in verdicts]}
    if not options.no_trl:
        scores["TRL"] = trl_scores(completions, golds)

    def is_right(name: str, i: int) -> bool:
        return float(scores[name][i] or 0.0) == cases[i]["expected"]

    rows = collections.defaultdict(list)
    for i, case in enumerate(cases):
        rows[case["family"]].append(i)
    rows["all"] = list(range(len(cases)))
    rows["wrong answers, refused"] = [i for i, case in enumerate(cases) if not case["expected"]]
    print(f"| {'family':<28} | cases | {' | '.join(f'{name:>6}' for name in scores)} |")
    print(f"|:{'-' * 28}-|------:|{'|'.join('-' * 7 + ':' for _ in scores)}|")
    for name, members in rows.items():
        right = " | ".join(f"{sum(is_right(which, i) for i in members):6d}" for which in scores)
        print(f"| {name:<28} | {len(members):5d} | {right} |")
    if options.missed:
        for i in (i for i in rows["all"] if not is_right("ours", i)):
            case = cases[i]
            answer, reason = verdicts[i].answer, verdicts[i].reason
            print(f"{case['expected']} {case['family']}: {case['gold']!r:.80} {answer!r:.80} {reason} ({case['why']})")


if __name__ == "__main__":
    main()
