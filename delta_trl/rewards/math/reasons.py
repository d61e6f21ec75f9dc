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

REASONS = (
    CORRECT,
    WRONG,
    NO_BOX,
    UNFINISHED_THOUGHT,
    UNPARSEABLE_ANSWER,
    UNEVALUATED,
    TOO_COSTLY,
    TIMED_OUT,
    UNSCORABLE_GOLD,
)

SCORABLE = "scorable"  # a worker's reply where only the gold was asked about; no verdict
