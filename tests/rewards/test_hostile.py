"""Completions made to break, hang or deceive the checker, from where training calls it."""

import json
import multiprocessing
import threading
import time

import pytest
from support.places import DATA

from delta_trl.rewards import grade


CASES = [
    json.loads(line)
    for line in (DATA / "hostile_answers.jsonl").open(encoding="utf-8")
]  # fmt: skip
# Seconds of CPU time in the process that asks. The workers have limits of their own, and a busy machine takes any time
LONGEST_ITEM = 1.0
LONGEST_RUN = 10.0
SHARE_MET = 0.88

# Expectations that are not met, and why that is right or does not pay.
NOT_MET = {
    "bigpow_diff": "true, but powers of 10^9 digits are refused by the cost guard",
    "zoo_both": "the gold 2/0 is no answer: None, so that the row is reported, rather than 0",
    "gold_prose": "a sentence as the gold is unscorable or wrong data; guessing a number in it would be worse",
}


def grade_one_by_one() -> list[tuple[str, float | None, str, float]]:
    results = []
    grade([r"\boxed{\sqrt{8}}"], [r"2\sqrt{2}"])  # starting a worker is not the first item's fault
    for case in CASES:
        start = time.process_time()
        (verdict,) = grade([case["completion"]], [case["solution"]])
        results.append((case["name"], verdict.score, verdict.reason, time.process_time() - start))
    return results


def in_a_thread(target) -> list:
    results = []
    thread = threading.Thread(target=lambda: results.extend(target()))
    thread.start()
    thread.join(timeout=250)
    assert not thread.is_alive()
    return results


def in_a_thread_of_a_daemon(connection) -> None:
    """Where TRL's asynchronous GRPO calls its rewards."""
    connection.send(in_a_thread(grade_one_by_one))


def check(results) -> None:
    assert len(results) == len(CASES)
    slow = [(name, seconds) for name, _, _, seconds in results if seconds > LONGEST_ITEM]
    assert not slow
    assert sum(seconds for *_, seconds in results) < LONGEST_RUN
    expected = {case["name"]: case["expected"] for case in CASES}
    missed = {name: (score, reason) for name, score, reason, _ in results if score != expected[name]}
    assert missed.keys() == NOT_MET.keys(), missed
    assert len(missed) <= (1 - SHARE_MET) * len(CASES)


@pytest.mark.slow
def test_every_hostile_case_in_a_plain_thread_and_in_a_daemonic_process():
    check(in_a_thread(grade_one_by_one))
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=in_a_thread_of_a_daemon, args=(sender,), daemon=True)
    process.start()
    sender.close()
    assert receiver.poll(300), "the daemonic process hangs"
    check(receiver.recv())
    process.join(timeout=60)
    assert process.exitcode == 0


def test_one_batch_loses_nothing_to_the_items_that_hang():
    completions = [case["completion"] for case in CASES]
    golds = [case["solution"] for case in CASES]
    spread = [r"\boxed{\sqrt{8}}", r"\boxed{x^2+2x}"] * 20
    verdicts = grade(completions + spread, golds + [r"2\sqrt{2}", "x(x+2)"] * 20)
    assert [v.score for v in verdicts[len(CASES) :]] == [1.0] * len(spread)
