"""From a model and benchmarks to a finished sample file: what is asked, who does which share, grading, resuming."""

import gc
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..responses import response_texts
from ..rewards import Verdict
from .benchmarks import load_problems
from .generate import Backend, Completion, Request, TransformersBackend, encode_prompt, sample_seed
from .graders import GRADERS
from .models import ModelSource, find_model
from .options import Decoding, Engine
from .problem import Benchmark, Problem, fingerprint
from .samples import SampleFile, package_versions, plan
from .summary import no_answer_warning


logger = logging.getLogger(__name__)

# So many samples tell whether nearly all lack an answer.
FIRST_SAMPLES = 64
# The dtype in records where a server computes
SERVERS_OWN = "server"
# A process that is done waits for the others, whose completions may be much longer.
LONGEST_WAIT = timedelta(days=2)


@dataclass(frozen=True)
class Task:
    """Everything that defines one sample file but the weights: can be sent to another process.

    Args:
        benchmarks: What is asked.
        decoding: How it is asked and sampled.
        inherited: Options that were taken over from the model's training run, for the record.
        limit: Most problems of a benchmark; None: all of them.
    """

    benchmarks: tuple[tuple[Benchmark, tuple[Problem, ...]], ...]
    decoding: Decoding
    inherited: tuple[str, ...] = ()
    limit: int | None = None

    @classmethod
    def load(cls, benchmarks: Sequence[Benchmark], decoding: Decoding, limit: int | None = None) -> "Task":
        """Loads the problems.

        Args:
            limit: Take only the first so many of each benchmark, whose title then says so, in tables and records.

        Raises:
            ValueError: As `load_problems`, or the limit is below 1.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}.")
        loaded = []
        for benchmark in benchmarks:
            problems = load_problems(benchmark, GRADERS["code"].sandbox)  # ty: ignore[missing-attribute]
            if limit is not None and limit < len(problems):
                benchmark = replace(benchmark, title=f"{benchmark.title} (first {limit} of {len(problems)})")
            loaded.append((benchmark, tuple(problems[:limit])))
        return cls(tuple(loaded), decoding, limit=limit)


def find_models(models: Sequence[str], revision: str | None = None) -> list[ModelSource]:
    """Finds several models that are to be evaluated into one folder.

    Args:
        models: Hub ids or folders, see `find_model`.
        revision: On the Hub, of the only model.

    Raises:
        ValueError: As `find_model`, or two of the models have the same label.
    """
    if revision is not None and len(models) > 1:
        raise ValueError(f"revision {revision!r} was given for {len(models)} models. Evaluate them one by one.")
    sources = [find_model(model, revision) for model in models]
    labels = [source.label for source in sources]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"Two models share the label {label}; use different --output folders.")
    return sources


def evaluate_models(
    models: Sequence[str], task: Task, engine: Engine, output: str | os.PathLike, revision: str | None = None
) -> list[Path]:
    """Evaluates several models in turn, see `find_models` and `evaluate_model`.

    Returns:
        The sample files, finished.
    """
    return [evaluate_model(source, task, engine, output) for source in find_models(models, revision)]


def evaluate_model(source: ModelSource, task: Task, engine: Engine, output: str | os.PathLike) -> Path:
    """Evaluates a model into `output/<its label>.jsonl`, continuing what is already there.

    Args:
        source: From `find_model`.
        task: What to evaluate.
        engine: How. With transformers and a launcher, every process calls this, and each draws its share.
        output: Folder of the sample files.

    Returns:
        The sample file, finished.
    """
    path = Path(output) / f"{source.label}.jsonl"
    if engine.resolved == "vllm":
        from .vllm_backend import run_data_parallel

        # Always in processes of its own: an engine does not give back all of the GPU's memory until it ends.
        arguments = (source, task, engine, path)
        run_data_parallel(_vllm_process, engine.tensor_parallel_size, engine.data_parallel_size, arguments)
    elif engine.resolved == "server":
        from .server_backend import ServerBackend

        backend = ServerBackend(source, engine)
        # Where the servers are may change from one start to the next, and is not recorded
        run_share(backend, task, source, path, SERVERS_OWN, settings=backend.settings)
    else:
        _transformers_process(source, task, engine, path)
    return path


def is_main_process() -> bool:
    """Whether this process is the one that prints, under a launcher or without."""
    return int(os.environ.get("RANK", "0")) == 0


def run_share(
    backend: Backend,
    task: Task,
    source: ModelSource,
    path: str | os.PathLike,
    dtype: str,
    rank: int = 0,
    world: int = 1,
    even: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Draws, grades and records this process's share of the samples that the file does not hold yet.

    The shares are fixed, every world-th sample, so that processes need not agree on what is left.

    Args:
        backend: Draws the samples.
        task: What to evaluate.
        source: The model, for the records.
        path: The sample file.
        dtype: Of the weights, for the records.
        rank, world: This process among those that share the work.
        even: Whether all processes must draw equally many, as a model that is sharded over them needs. Nothing is
            resumed then, and a process that is one short draws a sample of another's again, which counts once.
        settings: Further settings of the back-end's, for the records.

    Raises:
        ValueError: The file was begun with other settings.
    """
    file = SampleFile(path)
    settings = {
        **(settings or {}),
        "model": source.path,
        "base_model": source.base,
        "revision": source.revision,
        "backend": backend.name,
        "dtype": dtype,
        **asdict(task.decoding),
        **({} if task.limit is None else {"limit": task.limit}),
        "versions": package_versions(backend.name),
    }
    done = file.begin(
        plan(
            benchmark.name,
            benchmark.title,
            fingerprint(problems),
            [problem.id for problem in problems],
            task.decoding.samples,
            settings,
            task.inherited,
            benchmark.grader,
        )
        for benchmark, problems in task.benchmarks
    )
    requests = make_requests(task, backend.tokenizer)
    share = requests[rank::world]
    if even:
        pending = share = share + requests[:1] * (len(requests[::world]) - len(share))
    else:
        pending = [request for request in share if (request.benchmark, request.problem, request.index) not in done]
    bar = tqdm(
        total=len(share),
        initial=len(share) - len(pending),
        desc=source.label if world == 1 else f"{source.label}, process 1 of {world}",
        unit="sample",
        disable=rank != 0,
    )
    first: list[dict[str, Any]] | None = []
    with bar:
        for finished in backend.generate(pending, task.decoding):
            if not finished:
                continue
            graded = grade_samples(finished)
            file.append(graded)
            bar.update(len(graded))
            if first is not None and len(first := [*first, *graded]) >= FIRST_SAMPLES:
                graders = {benchmark.name: benchmark.grader for benchmark, _ in task.benchmarks}
                warning = no_answer_warning(first, settings, graders)
                if warning and rank == 0:
                    logger.warning(warning)
                first = None


def make_requests(task: Task, tokenizer: Any) -> list[Request]:
    """Every sample that the task asks for, problem by problem."""
    requests = []
    for benchmark, problems in task.benchmarks:
        grader = GRADERS[benchmark.grader]
        for problem in problems:
            prompt, ids = encode_prompt(problem.question, task.decoding, tokenizer, grader.instruction)
            reference = grader.reference(problem)
            for index in range(task.decoding.samples):
                seed = sample_seed(task.decoding.seed, benchmark.name, problem.id, index)
                own = (benchmark.name, problem.id, index, seed, prompt, tuple(ids), reference, benchmark.grader)
                requests.append(Request(*own))
    return requests


def grade_samples(finished: Sequence[tuple[Request, Completion]]) -> list[dict[str, Any]]:
    """The records of finished samples, graded by the checkers that training's rewards use."""
    # As in training: a prompt that ends inside an opened thought makes the completion begin inside it.
    texts = response_texts(
        [completion.text for _, completion in finished], {"prompts": [request.prompt for request, _ in finished]}
    )
    verdicts: dict[int, Verdict] = {}
    for name in {request.grader for request, _ in finished}:
        places = [i for i, (request, _) in enumerate(finished) if request.grader == name]
        graded = GRADERS[name].grade([texts[i] for i in places], [finished[i][0].solution for i in places])
        verdicts.update(zip(places, graded, strict=True))
    return [
        {
            "benchmark": request.benchmark,
            "problem": request.problem,
            "sample": request.index,
            "seed": request.seed,
            "prompt": request.prompt,
            "completion": completion.text,
            "tokens": completion.tokens,
            "truncated": completion.truncated,
            "seconds": completion.seconds,
            **completion.reported,
            "solution": GRADERS[request.grader].record(request.solution),
            "answer": verdicts[i].answer,
            "score": verdicts[i].score,
            "reason": verdicts[i].reason,
        }
        for i, (request, completion) in enumerate(finished)
    ]


def _transformers_process(source: ModelSource, task: Task, engine: Engine, path: Path) -> None:
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    if state.num_processes != int(os.environ.get("WORLD_SIZE", "1")):
        raise ValueError(
            f"The launcher started {os.environ['WORLD_SIZE']} processes, and accelerate sees {state.num_processes}. "
            "Without a GPU, use `torchrun --nproc_per_node N`."
        )
    backend = TransformersBackend.load(source, engine.dtype, state.device, engine.batch_size)
    run_share(backend, task, source, path, engine.dtype, state.process_index, state.num_processes)
    state.wait_for_everyone()
    del backend
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _vllm_process(rank: int, world: int, source: ModelSource, task: Task, engine: Engine, path: Path) -> None:
    from .vllm_backend import VllmBackend

    try:
        backend = VllmBackend(source, engine)
        try:
            run_share(backend, task, source, path, engine.dtype, rank, world)
        finally:
            backend.close()
    except ValueError as error:
        sys.exit(f"error: {error}")  # what the user has to mend, without a traceback, and as a failure to the parent
