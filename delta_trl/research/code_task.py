"""A made programming task: a one-line function for a rule in words, checked by calling it.

`f(x): take x, add 3, multiply by 4, subtract 2.` asks for

    ```python
    def f(x): return (x+3)*4-2
    ```

The mistakes to unlearn are slips: a number that is one off, the opposite operator, parentheses left out.
"""

import itertools
import random


STEPS = 3
WORDS = {"+": ", add ", "-": ", subtract ", "*": ", multiply by "}
START = "f(x): take x"
OPENING = "```python\n"
HEAD = "def f(x): return "
FENCE = "```"
# Of the model, besides characters: what is the same in every problem and program, so that a step takes a laptop a second
TOKENS = (OPENING, FENCE, HEAD, START, *WORDS.values())
OPERATIONS = [("+", n) for n in range(1, 10)] + [("-", n) for n in range(1, 10)] + [("*", n) for n in range(2, 10)]
ARGUMENTS = (-3, 0, 1, 4, 10)  # what f is called with; rules are linear, so that two would tell them apart


def code_problems(n_problems: int, seed: int = 0) -> list[dict]:
    """
    Draw distinct problems: question, tests, difficulty (the number of steps), topic.

    Args:
        n_problems (`int`): How many, at most 26³ = 17,576.
        seed (`int`): The same seed gives the same problems in the same order.

    Raises:
        `ValueError`: if more problems are asked for than there are.
    """
    everything = list(itertools.product(OPERATIONS, repeat=STEPS))
    if n_problems > len(everything):
        raise ValueError(f"There are {len(everything)} distinct problems; {n_problems} were asked for.")
    return [
        {
            "question": _question(rule),
            "tests": {
                "fn_name": "f",
                "inputs": [[x] for x in ARGUMENTS],
                "outputs": [_value(rule, x) for x in ARGUMENTS],
            },
            "difficulty": float(STEPS),
            "topic": "Programming -> Arithmetic",
        }
        for rule in random.Random(seed).sample(everything, n_problems)
    ]


def written_program(question: str, rng: random.Random, error_rate: float = 0.0) -> str:
    """Write the program for one of `code_problems`, each step wrong with probability `error_rate`."""
    written, is_sum = "x", False
    for operator, number in _rule(question):
        slip = rng.choice(("number", "operator", "parentheses")) if rng.random() < error_rate else None
        if slip == "parentheses" and not (operator == "*" and is_sum):
            slip = "number"
        if slip == "number":
            number = number - 1 if number == 9 or (number > 2 and rng.random() < 0.5) else number + 1
        elif slip == "operator":
            operator = {"+": "-", "-": "+", "*": "+"}[operator]
        if operator == "*" and is_sum and slip != "parentheses":
            written = f"({written})"
        written += f"{operator}{number}"
        is_sum = operator != "*" or (is_sum and slip == "parentheses")
    return f"{OPENING}{HEAD}{written}\n{FENCE}"


def _question(rule: tuple) -> str:
    return START + "".join(f"{WORDS[operator]}{number}" for operator, number in rule) + "."


def _rule(question: str) -> list[tuple[str, int]]:
    operators = {word.strip(", "): operator for operator, word in WORDS.items()}
    steps = question.removeprefix(f"{START}, ").removesuffix(".").split(", ")
    return [(operators[step[:-2]], int(step[-1])) for step in steps]


def _value(rule: tuple, x: int) -> int:
    for operator, number in rule:
        x = x + number if operator == "+" else x - number if operator == "-" else x * number
    return x
