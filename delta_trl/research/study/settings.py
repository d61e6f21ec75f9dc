"""A study's YAML file: what it may say, and the runs that follow from it."""

import hashlib
import json
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from ...train.yaml_file import read_yaml
from ..language import LANGUAGE_TASKS
from ..tasks import TASKS


# The study gives these to every run itself
OWN_OPTIONS = ("model_name_or_path", "dataset_name", "held_out_name", "output_dir", "seed", "max_prompt_length")
# The run that only evaluates the model all runs start from
WARM = "warm"


@dataclass(frozen=True)
class TaskSettings:
    """The task, and the model that every run starts from: one that is warmed up, or a pretrained one as it is.

    Attributes:
        name: One of `delta_trl.research.tasks.TASKS`, or with `model` of `delta_trl.research.language.LANGUAGE_TASKS`.
        warm_up_steps: Of the supervised warm-up; the task's own by default, None with `model`.
        error_rate: Probability that a written step of the warm-up's solutions is wrong; the task's own by default, None
            with `model`.
        held_out: Problems kept out of warm-up and training, for the pass rate.
        problems: All problems, the held-out ones among them; by default as many as the task has.
        seed: Of the warm-up.
        model: A pretrained model, a folder or a name on the Hub, which is not warmed up; None: a tiny one that is.
    """

    name: str
    warm_up_steps: int | None = None
    error_rate: float | None = None
    held_out: int = 1000
    problems: int | None = None
    seed: int = 0
    model: str | None = None

    def __post_init__(self):
        known = [name for name in TASKS if name != "code"]  # whose problems have tests in place of an answer
        if self.name not in [*known, *LANGUAGE_TASKS]:
            raise ValueError(f"task.name must be one of {', '.join([*known, *LANGUAGE_TASKS])}; got {self.name!r}.")
        made = (TASKS | LANGUAGE_TASKS)[self.name]
        own = {"problems": made.n_problems}
        if self.model is None:
            if self.name in LANGUAGE_TASKS:
                raise ValueError(
                    f"task.name {self.name!r} needs task.model, a pretrained model: there is no warm-up for it. Name a "
                    f"folder or a model on the Hub, or take one of {', '.join(known)}."
                )
            own |= {"warm_up_steps": made.warm_up_steps, "error_rate": made.error_rate}
        elif unused := [name for name in ("warm_up_steps", "error_rate", "seed") if getattr(self, name)]:
            raise ValueError(
                f"task has {', '.join(unused)}, and task.model={self.model!r} is trained as it is, without a warm-up. "
                "Remove one of the two."
            )
        for name, value in own.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)  # the dataclass is frozen
        if not 0 < self.held_out < self.problems:
            raise ValueError(
                f"task.held_out must be between 1 and task.problems - 1 = {self.problems - 1}, or nothing is left to "
                f"train on; got {self.held_out}."
            )


@dataclass(frozen=True)
class StudyMethod:
    """One row of the study's tables: options of the training command on top of the study's settings.

    Attributes:
        options: What the method changes.
        seeds: How many of the study's seeds it runs on, the first ones; None: all of them.
        baseline: StudyMethod or methods that it is compared with, if that is not the study's baseline.
    """

    options: dict[str, Any] = field(default_factory=dict)
    seeds: int | None = None
    baseline: str | list[str] | None = None


@dataclass(frozen=True)
class StudyRun:
    """One training run; `name` is its folder, `final_samples` the study's."""

    method: str
    seed: int
    options: dict[str, Any]
    final_samples: int | None = None

    @property
    def name(self) -> str:
        return f"{self.method}-seed{self.seed}"

    def key(self, fingerprint: str) -> str:
        """Changes with the run's options, the data and the model it starts from, but not with where they lie."""
        final = [] if self.final_samples is None else [self.final_samples]
        text = json.dumps([self.options, fingerprint, *final], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Study:
    """Methods × seeds on one task.

    Attributes:
        name: The file's name without suffix.
        task: The task and the model.
        settings: Options of the training command that all runs share.
        baseline: StudyMethod that the others are compared with, seed by seed.
        seeds: All seeds.
        methods: By name, in the order of the tables.
        final_samples: Completions a held-out problem for pass@1 and pass@N of the trained model, which is decoded greedily
            too; None: no such evaluation.
    """

    name: str
    task: TaskSettings
    settings: dict[str, Any]
    baseline: str
    seeds: tuple[int, ...]
    methods: dict[str, StudyMethod]
    final_samples: int | None = None

    def __post_init__(self):
        if self.final_samples is not None and self.final_samples < 2:
            raise ValueError(f"final_samples must be at least 2, the k of pass@k; got {self.final_samples}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be a list of different numbers; got {list(self.seeds)}.")
        if self.baseline not in self.methods:
            raise ValueError(
                f"The study's baseline is {self.baseline!r}, which is not among the methods: {', '.join(self.methods)}."
            )
        for owner, options in (
            ("settings", self.settings),
            *((f"methods.{n}", m.options) for n, m in self.methods.items()),
        ):
            if own := [name for name in OWN_OPTIONS if name in options]:
                raise ValueError(f"{owner} has {', '.join(own)}, which the study sets itself. Remove it.")
        if WARM in self.methods:
            raise ValueError(f"A method cannot be called {WARM!r}: that is the run that evaluates the common start.")
        for name, method in self.methods.items():
            if "/" in name or "-seed" in name:
                raise ValueError(f"{name!r} cannot name a method: its runs' folders are called NAME-seedN.")
            if method.seeds is not None and not 1 <= method.seeds <= len(self.seeds):
                raise ValueError(
                    f"methods.{name}.seeds must be 1 to {len(self.seeds)}, the number of the study's seeds; "
                    f"got {method.seeds}."
                )
            for baseline in self.baselines_of(name):
                if baseline not in self.methods:
                    raise ValueError(
                        f"The baseline of {name!r} is {baseline!r}, which is not among the methods: "
                        f"{', '.join(self.methods)}."
                    )

    def baselines_of(self, method: str) -> list[str]:
        """The methods that this one is compared with; none for the study's baseline itself."""
        own = self.methods[method].baseline or ([] if method == self.baseline else self.baseline)
        return [own] if isinstance(own, str) else own

    def seeds_of(self, method: str) -> tuple[int, ...]:
        return self.seeds[: self.methods[method].seeds]

    def runs(self, methods: list[str] | None = None, seeds: int | None = None) -> list[StudyRun]:
        """All runs, or those of some methods or of the first few seeds; seed by seed, so that a study that is stopped early
        has about as many seeds of each method. The first run evaluates the common start, if there is an evaluation."""
        if unknown := set(methods or ()) - set(self.methods):
            raise ValueError(
                f"No method is called {', '.join(sorted(unknown))}. There are: {', '.join(self.methods)}."
            )
        if seeds is not None and not 1 <= seeds <= len(self.seeds):
            raise ValueError(f"seeds must be 1 to {len(self.seeds)}, the number of the study's seeds; got {seeds}.")
        runs = []
        evaluated = self.settings.get("eval_strategy", "no") != "no"
        if evaluated or self.final_samples:
            start = {"max_steps": 1, "eval_on_start": evaluated, "seed": self.seeds[0]}
            if self.final_samples:
                start["learning_rate"] = 0.0  # evaluated after the step, which must leave the model what it was
            options = {**self.settings, **self.methods[self.baseline].options, **start}
            runs.append(StudyRun(WARM, self.seeds[0], options, self.final_samples))
        runs.extend(
            StudyRun(name, seed, {**self.settings, **method.options, "seed": seed}, self.final_samples)
            for seed in self.seeds[:seeds]
            for name, method in self.methods.items()
            if seed in self.seeds_of(name) and (methods is None or name in methods)
        )
        return runs


def load_study(path: Path) -> Study:
    """Read a study's YAML file.

    Raises:
        ValueError: Unknown or missing keys, or values that do not fit.
    """
    content = read_yaml(path)
    _check_keys(content, Study, str(path), given=("name",))
    task, methods = content["task"], content["methods"]
    _check_keys(task, TaskSettings, f"{path}: task")
    if not isinstance(methods, dict) or not methods:
        raise ValueError(f"{path}: methods must map names to options; got {methods!r}.")
    if not isinstance(content["settings"], dict) or not isinstance(content["seeds"], list):
        raise ValueError(f"{path}: settings must be a mapping and seeds a list.")
    for name, method in methods.items():
        _check_keys(method, StudyMethod, f"{path}: methods.{name}")
    return Study(
        name=path.stem,
        task=TaskSettings(**task),
        settings=content["settings"],
        baseline=content["baseline"],
        seeds=tuple(content["seeds"]),
        methods={str(name): StudyMethod(**method) for name, method in methods.items()},
        final_samples=content.get("final_samples"),
    )


def _check_keys(content: Any, kind: type, where: str, given: tuple[str, ...] = ()) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be a mapping; got {content!r}.")
    known = [f for f in fields(kind) if f.name not in given]
    names = [f.name for f in known]
    if unknown := [str(key) for key in content if key not in names]:
        raise ValueError(f"{where} has unknown keys: {', '.join(unknown)}. Known are: {', '.join(names)}.")
    needed = [f.name for f in known if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in content]:
        raise ValueError(f"{where} lacks {', '.join(missing)}.")
