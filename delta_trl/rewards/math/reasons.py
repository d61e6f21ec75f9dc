"""The reasons of verdicts, written once: what text decides, what a worker computes and what is logged share them."""

CORRECT = "correct"
WRONG = "wrong"
NO_BOX = "no box"
UNFINISHED_THOUGHT = "unfinished thought"
UNPARSEABLE_ANSWER = "unparseable answer"
UNEVALUATED = "unevaluated"
TOO_COSTLY = "too costly"
TIMED_OUT = "timed out"
UNSCORABLE_GOLD = "unscorable gold"

MEANING = {
    CORRECT: "the answer is the gold",
    WRONG: "the answer is not the gold, or says something that is not understood",
    NO_BOX: "the completion has no \\boxed{...} after its thought, or one that is never closed",
    UNFINISHED_THOUGHT: "a <think> is never closed",
    UNPARSEABLE_ANSWER: "the text in the box is empty, no mathematics, or undefined",
    UNEVALUATED: "the answer states a task (a sum, an integral, a product of numbers) where the gold states a value",
    TOO_COSTLY: "the answer could keep the algebra busy and looks like no reasonable one",
    TIMED_OUT: "the comparison took more than the CPU time of an item",
    UNSCORABLE_GOLD: "the gold is empty, a sentence, malformed, undefined or beyond the cost guard: no answer is scored",
}
REASONS = tuple(MEANING)

SCORABLE = "scorable"  # a worker's reply where only the gold was asked about; no verdict
