r"""The rules that decide whether an answer is the gold, in the order in which they are asked. The first that knows decides.

Both texts come in canonical spelling (`spelling.canonical`). A rule returns a reason, a tree of smaller questions
(`verdicts`), or None where it has nothing to say; the last one asks the workers' algebra. Each has two lines that say what
it is for, and examples `(gold, answer, reason)`, which are tests: the named rule decides them, and so.
"""

import re

from .choices import choice, same_words, structure
from .congruences import congruence, residue_class
from .equations import equal_parts, exact_and_rounded, family, has_relation, has_variable, is_name, is_several
from .limits import connectives, is_plain_arithmetic, too_costly, undone_operators
from .lists import LIST, are_of_one_letter, bracketed, elements, joined_by, key, listed, rejoined, tuple_of_names
from .numerals import based, decide_numbers, literal
from .parameters import as_periodic, with_common_parameter
from .qualifiers import ORDER, REGION, split_qualifiers
from .reasons import CORRECT, TOO_COSTLY, UNEVALUATED, UNPARSEABLE_ANSWER, WRONG
from .rule import RULES, Pair, decide, rule
from .units import TIME, other_text, without_units, words
from .verdicts import COMPARE, EVERY, MATCH, NEAR, PERIODIC, ROUNDS, is_correct


__all__ = ["RULES", "decide"]

MOST_ELEMENTS, MOST_INNER_ELEMENTS = 12, 6  # of a list, and of one in it, in any order; longer ones keep their order


@rule("no answer", ("3", "", UNPARSEABLE_ANSWER))
def _no_answer(pair: Pair):
    """An empty box, or one with layout only."""
    return None if pair.answer else UNPARSEABLE_ANSWER


@rule("same text", ("x+1", "x+1", CORRECT), ("1,2", "1, 2", CORRECT), ("x", "(x)", CORRECT))
def _same_text(pair: Pair):
    """The same after the spelling is made canonical, whatever it means."""
    same = key(pair.gold) == key(pair.answer) or (pair.gold.isalpha() and pair.answer == f"({pair.gold})")
    return CORRECT if same else None


@rule("letter", ("A", "a", WRONG), ("B", "B. 5", CORRECT), ("B", "A)", WRONG))
def _letter(pair: Pair):
    """One letter is another than the next, and a capital than a small one; text may follow a choice."""
    if len(pair.gold) == len(pair.answer) == 1:
        return WRONG
    if (letter := choice(pair.gold)) and (chosen := choice(pair.answer)):
        return CORRECT if letter == chosen else WRONG
    return None


@rule("words", ("Yes", r"\text{yes}", CORRECT), ("Yes", "No", WRONG), (r"B,\text{ D}", r"\text{D},B", CORRECT))
def _words(pair: Pair):
    """Words are compared whole, lists of them in any order: letters do not commute, and nothing is translated."""
    same = same_words(pair.gold, pair.answer)
    if same is None and literal(pair.gold) is not None and words(pair.answer) is not None:
        return WRONG
    return None if same is None else CORRECT if same else WRONG


@rule("base", ("101_2", r"101_{\text{two}}", CORRECT), ("101_2", "101", WRONG), ("5", "101_2", WRONG))
def _base(pair: Pair):
    """A numeral in another base keeps its base; nothing is converted."""
    gold, answer = based(pair.gold), based(pair.answer)
    if gold or (answer and literal(pair.gold)):
        return CORRECT if gold == answer else WRONG
    return None


@rule("residues", (r"x\equiv3\pmod{7}", r"10\pmod{7}", CORRECT), (r"n=4k+1", r"n\equiv1\pmod{4}", CORRECT))
def _residues(pair: Pair):
    """A congruence has a modulus and residues modulo it; `4k+1` names the same numbers."""
    gold, answer = congruence(pair.gold), congruence(pair.answer)
    if gold is None and answer is not None:
        gold = residue_class(pair.gold)
        return None if gold is None else CORRECT if gold == answer else WRONG
    if gold is None:
        return None
    answer = answer or residue_class(pair.answer)
    return CORRECT if answer and answer[1:] == gold[1:] and answer[0] in ("", gold[0]) else WRONG


@rule("several boxes", ("5", "5,x=5", CORRECT))
def _several_boxes(pair: Pair):
    """One answer that is given more than once is one answer."""
    parts = elements(pair.answer) if LIST.search(pair.answer) and not LIST.search(pair.gold) else []
    if len(parts) < 2 or literal(pair.answer) is not None:
        return None
    trees = [pair.inner(pair.gold, part) for part in parts[:MOST_ELEMENTS]]
    return CORRECT if len(parts) <= MOST_ELEMENTS and all(map(is_correct, trees)) else None


@rule("units", (r"3\text{ cm}", r"3\text{ m}", WRONG), (r"3:45\text{ p.m.}", r"3:45\text{ a.m.}", WRONG))
def _units(pair: Pair):
    """A unit may be left out but not be another one, and nothing is converted."""
    gold, answer = without_units(pair.gold)[1], without_units(pair.answer)[1]
    return WRONG if gold and answer and gold != answer else None


@rule("time of day", ("7:30", r"07:30\text{ PM}", CORRECT), ("7:30", "7:31", WRONG))
def _time(pair: Pair):
    """Hours and minutes are compared as written; a.m. and p.m. are units."""
    gold, answer = pair.bodies
    if TIME.fullmatch(gold):
        return CORRECT if answer.lstrip("0") == gold.lstrip("0") else WRONG
    return None


@rule("numbers", (r"\frac{1}{2}", "0.5", CORRECT), ("5", "4.9999999", WRONG), (r"50\%", "50", CORRECT))
def _numbers(pair: Pair):
    """Written-out numbers are compared exactly; a decimal stands for what equals it to six decimals."""
    same = decide_numbers(*pair.bodies)
    return None if same is None else CORRECT if same else WRONG


@rule("groups", (r"\mathbb{Z}/4\mathbb{Z}", r"\mathbb{Z}_4", CORRECT))
def _groups(pair: Pair):
    """Groups and rings are compared as text, factor by factor: to the algebra they would be numbers and products."""
    gold = structure(pair.gold)
    return None if gold is None else CORRECT if gold == structure(pair.answer) else WRONG


@rule("same text without units", (r"2\pi", r"2\pi\text{ cm}", CORRECT))
def _same_without_units(pair: Pair):
    """The same text up to a unit that one side leaves out."""
    gold, answer = pair.bodies
    return CORRECT if key(gold) == key(answer) else None


@rule("family", (r"\{2k|k\in\mathbb{Z}\}", r"\{2n:n\in\mathbb{Z}\}", CORRECT))
def _family(pair: Pair):
    """The members of two families are compared, whatever the name of their index."""
    gold, answer = family(pair.gold), family(pair.answer, is_open=True)
    if gold is None or answer is None:
        return None if gold is None else WRONG
    return pair.inner(gold[0], answer[0]) if gold[1] == answer[1] else WRONG


@rule("qualifiers", (r"x=2k\pi", r"x=2k\pi,k\in\mathbb{Z}", CORRECT), ("1", r"1\text{ for }x<1", WRONG))
def _qualifiers(pair: Pair):
    """What stands behind a value ("for all x") may be left out, not contradict; a condition only where the value depends on
    its letter, and never one of the gold."""
    gold, answer = split_qualifiers(pair.gold), split_qualifiers(pair.answer)
    if (gold.statement, answer.statement) == (pair.gold, pair.answer):
        return None
    if gold.memberships and answer.memberships and gold.memberships != answer.memberships:
        return WRONG
    if gold.condition and not answer.condition:
        return WRONG
    statement = pair.inner(gold.statement, answer.statement)
    if answer.condition and not gold.condition:
        letters = set(re.findall(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])", answer.condition))
        is_free = bool(letters) and all(re.search(rf"(?<![a-zA-Z]){c}(?![a-zA-Z])", answer.statement) for c in letters)
        return statement if is_free and not ORDER.search(answer.statement) else WRONG
    if not gold.condition:
        return statement
    return (EVERY, "qualifiers", (statement, pair.inner(gold.condition, answer.condition)))


@rule("rounding", (r"\frac{1}{3}", r"\frac{1}{3}\approx0.33", CORRECT), ("0.33", r"\frac{1}{3}\approx0.33", CORRECT))
def _rounding(pair: Pair):
    """What follows ≈ is checked to a tenth and not compared; a decimal gold is met by the exact value that it rounds."""
    if r"\approx" not in pair.gold + pair.answer:
        return None
    (gold, gold_rounded), (answer, rounded) = map(exact_and_rounded, (pair.gold, pair.answer))
    checks = [(NEAR, "rounding", answer, rounded)] if rounded and not is_name(answer) else []
    if is_name(answer) and rounded:
        answer, rounded = f"{answer}={rounded}", ""
    if is_name(gold) and gold_rounded:
        gold, gold_rounded = f"{gold}={gold_rounded}", ""
    if gold_rounded and literal(pair.answer) is not None and literal(pair.answer) == literal(gold_rounded):
        return CORRECT  # the gold states it
    whole = pair.inner(gold, answer)
    value = literal(gold)
    if rounded and value and value.is_decimal and literal(without_units(rounded)[0]) == value:
        bare = equal_parts(answer)[-1]
        return (EVERY, "rounding", ((ROUNDS, "rounding", bare, gold),))
    return (EVERY, "rounding", (*checks, whole)) if checks else whole


@rule("parameter", (r"\frac{\pi}{4}+k\pi", r"\frac{\pi}{4}+n\pi", CORRECT), ("2n+1", "2m+1", CORRECT))
def _parameter(pair: Pair):
    """The name of an index that runs over all integers, or of a constant of integration, is free."""
    if (periodic := as_periodic(pair.gold, pair.answer)) is not None:
        return (PERIODIC, "parameter", *periodic)
    renamed = with_common_parameter(pair.gold, pair.answer)
    return None if renamed is None else pair.inner(*renamed)


@rule(
    "tuple",
    ("(1,2)", "(2,1)", WRONG),
    ("[1,2]", "[1,2)", WRONG),
    ("(1,2)", "y=2,x=1", CORRECT),
    ("(1,2)", "1,2", CORRECT),
)
def _tuple(pair: Pair):
    """A tuple keeps its order and an interval its brackets; `x=1, y=2` is the pair (1,2)."""
    gold, answer = (bracketed(body) for body in pair.bodies)
    if gold is None or answer is None:
        if (gold or answer) and any(body.startswith("\\{") and listed(body) != [body] for body in pair.bodies):
            return WRONG  # a set is no pair
        gold, answer = gold or tuple_of_names(pair.gold, answer), answer or tuple_of_names(pair.answer, gold)
        if gold is None or answer is None:
            return None
    if gold[0] != answer[0] or len(gold[1]) != len(answer[1]):
        return WRONG
    return (EVERY, "tuple", tuple(pair.inner(a, b) for a, b in zip(gold[1], answer[1], strict=True)))


@rule("list", ("1,-2", r"\{-2,1\}", CORRECT), ("3,3,5", "3,5,5", WRONG), ("3", r"3\text{ or }4", WRONG))
def _list(pair: Pair):
    """Lists and sets in any order, each element as often as in the gold. Between inequalities "and" is not "or"."""
    gold, answer = map(listed, pair.bodies)
    if max(len(gold), len(answer)) < 2 or r"\begin" in pair.gold:
        return None
    if literal(pair.bodies[0]):
        return WRONG if len(answer) > 1 else None
    has_order = ORDER.search(pair.gold) or ORDER.search(pair.answer)
    if has_order and {joined_by(pair.gold), joined_by(pair.answer)} == {"and", "or"}:
        return WRONG
    if len(gold) != len(answer):
        is_open = has_order or len(answer) == 1 or (len(gold) == 1 and REGION.search(pair.gold))
        return None if is_open else WRONG
    if has_order and are_of_one_letter(gold):  # the algebra knows their solutions
        return (COMPARE, "list", rejoined(pair.gold, gold), rejoined(pair.answer, answer), pair.is_step)
    names, others = ({equal_parts(part)[0] for part in side if "=" in part} for side in (gold, answer))
    is_in_order = (len(names) == len(gold) and not others) or (len(others) == len(answer) and not names)
    if is_in_order or len(gold) > (MOST_INNER_ELEMENTS if pair.depth > 1 else MOST_ELEMENTS):
        return (EVERY, "list", tuple(pair.inner(a, b) for a, b in zip(gold, answer, strict=True)))
    return (MATCH, "list", tuple(tuple(pair.inner(a, b) for b in answer) for a in gold))


@rule("chain", ("3", "x=1+2=3", CORRECT), ("5", "2+2=5", WRONG), ("y", "y=y", WRONG), ("x=3", "3", CORRECT))
def _chain(pair: Pair):
    """Of a name and its values the last one counts; in a chain of numbers each part must be the gold."""
    parts, gold_parts = equal_parts(pair.answer), equal_parts(pair.gold)
    is_named = len(gold_parts) > 1 and is_name(gold_parts[0])
    gold_is_one = len(elements(pair.gold)) == 1
    if len(parts) == 1:
        is_chain = (is_named or len(gold_parts) > 2) and not is_several(gold_parts)
        is_value = is_chain and gold_is_one and not has_relation(pair.answer)
        return pair.inner(gold_parts[-1], pair.answer) if is_value else None
    if is_several(parts):
        return None
    if len(set(parts)) < len(parts):
        return WRONG
    if is_named and key(gold_parts[0]) == key(parts[0]) and gold_is_one:
        return pair.inner(gold_parts[-1], parts[-1])
    if len(gold_parts) > 1 or has_relation(pair.gold):
        return None
    if is_name(parts[0]) or has_variable(parts[0]) or undone_operators(parts[0]):
        return pair.inner(pair.gold, parts[-1])
    steps = [part for part in parts[:-1] if not (has_variable(part) or undone_operators(part))]
    trees = [*(pair.inner(pair.gold, step, is_step=True) for step in steps), pair.inner(pair.gold, parts[-1])]
    return (EVERY, "chain", tuple(trees))


@rule("other words", ("5", r"5\text{ maybe}", WRONG), ("5", r"x\to5", WRONG))
def _other_words(pair: Pair):
    """Words that are no unit, and arrows, denials and crossings-out, say more than the value."""
    if other_text(pair.bodies[0]) != other_text(pair.bodies[1]):
        return WRONG
    return WRONG if connectives(pair.answer) - connectives(pair.gold) else None


@rule("work left undone", ("55", r"\sum_{k=1}^{10}k", UNEVALUATED), ("20", r"4\cdot5", UNEVALUATED))
def _work(pair: Pair):
    """An answer states the value, not the task: operators that the gold lacks, sums and products of plain numbers."""
    if undone_operators(pair.bodies[1]) - undone_operators(pair.bodies[0]):
        return UNEVALUATED
    answer = pair.bodies[1]
    is_task = is_plain_arithmetic(answer) and not literal(answer) and not has_variable(pair.gold)
    return UNEVALUATED if is_task and not pair.is_step else None


@rule("inequality for a value", ("5", "x>5", WRONG), ("5", "[5,5]", WRONG))
def _inequality(pair: Pair):
    """A bound is no value, and an interval with one point no number."""
    if ORDER.search(pair.answer) and not (ORDER.search(pair.gold) or REGION.search(pair.gold)):
        return WRONG
    return WRONG if _POINT_INTERVAL.search(pair.answer) and not _POINT_INTERVAL.search(pair.gold) else None


_POINT_INTERVAL = re.compile(r"\[([^,\[\]()]{1,50}),\1\]")  # the parser takes it for {5}


@rule("cost", ("5", "9^{9^{9^{9}}}", TOO_COSTLY))
def _cost(pair: Pair):
    """What could keep the algebra busy, and no reasonable answer looks like."""
    return TOO_COSTLY if too_costly(pair.answer) else None


@rule(
    "algebra", ("x^2+2x+1", "(x+1)^2", CORRECT), ("x+y+z", "3y", WRONG), ("3", r"\frac{1}{2}+\frac{5}{2}", UNEVALUATED)
)
def _algebra(pair: Pair):
    """Everything else is compared by value, or by its solutions, in a worker (`algebra.compare`)."""
    gold, answer = pair.bodies
    return (COMPARE, "algebra", gold, answer, pair.is_step)
