"""The whole run in small, before anyone books the machines: `python -m delta_trl.train --config FILE.yaml --rehearse`.

The training path is the run's own, called several times with other values of some options (`small_settings`): a random model
of two layers, the run's data, rewards and engine, two rollout batches, a checkpoint between them, a resume from it that must
equal the run without one, and all that is saved at the end.
"""

import functools
import gc
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ..checks import check_prompt_lengths, check_reward_columns
from ..data import DataArguments, ProblemData, load_problem_data
from ..hub import check_private
from ..run_folder import CHECKPOINT, describe_contents
from .arguments import parse
from .checks import check_problems, check_reporters, check_start
from .early import early_arguments
from .parts import Part, Parts, failure
from .plan import make_plan
from .rehearsal_folder import AS_CONFIGURED, MODEL, RESUMED, STRAIGHT, RehearsalFolder
from .repeated import check_saved, compare_resumed
from .resume import check_writable
from .rewards import load_rewards
from .shapes import check_weights, read_config_or_shape, read_tokenizer
from .small_model import make_small_model
from .small_settings import SmallSettings, sharding_lines
from .stopping import Stopped, ending_on_signals
from .training import build, decided_by_main, train_and_save
from .vllm_on_cpus import keep_weights_loadable


NOT_SHOWN = """\
  that the real weights can be had and loaded, and fit in memory with full lengths (--plan estimates that)
  speed, and what the run learns
  other machines and more processes than these"""


def rehearse(arguments: list[str] | None) -> str | None:
    """
    Rehearse the run that the command line describes.

    Returns:
        The report, in the main process.

    Raises:
        ValueError: A part failed: which one, and what is known of the options that it depends on.
    """
    parts, given = Parts(), {}
    try:
        with parts.part("options"):
            parsed = _parse(arguments)
            given = parsed[0].given

        def how_to_go_on(stop: Stopped) -> str:
            part = parts.failed or parts.current
            return f"{stop} in part {part!r} of the rehearsal. Nothing can be continued: start it again."

        with ending_on_signals(how_to_go_on):
            rehearsal = Rehearsal(arguments, parts, *parsed)
            rehearsal.play()
            return rehearsal.report()
    except Exception as error:
        raise ValueError(failure(parts.failed, error, given)) from error


def _parse(arguments: list[str] | None) -> tuple[Any, ...]:
    """The run's own settings, on as many processes as it will have."""
    try:
        return parse(arguments)
    except ValueError as error:
        if "divisible by" not in str(error):
            raise
        number = early_arguments(arguments).plan_processes or int(os.environ.get("WORLD_SIZE", "1"))
        raise ValueError(
            f"{error} This is on {number} process{'es' * (number > 1)}: --plan_processes says how many the run has."
        ) from error


@dataclass
class Rehearsal:
    """
    Attributes:
        parts: What is measured.
        lines: What was cut.
        notes: For the user.
        model, data_line, resume_line, pushed, sharing: What the report says of them.
    """

    arguments: list[str] | None
    parts: Parts
    script_args: Any
    data_args: DataArguments
    args: Any
    model_args: Any
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    model: str = ""
    data_line: str = ""
    resume_line: str = ""
    pushed: str = "not set"
    sharing: str = ""

    def play(self) -> None:
        args, name = self.args, self.model_args.model_name_or_path
        self.processes = PartialState().num_processes
        self.folder = RehearsalFolder(args.output_dir)
        path = self.folder.path
        # Until a run's own options are parsed: under ZeRO-3 transformers would share out among the processes what is made
        # here in one of them
        unset_hf_deepspeed_config()
        with self.parts.part("options"):
            self._check_options()
        settings = SmallSettings(args, str(path / MODEL), self.processes)
        source = {"revision": self.model_args.model_revision, "trust_remote_code": args.trust_remote_code}
        with self.parts.part("model"):
            config, _ = read_config_or_shape(
                self.model_args, self.script_args.config_file, trust_remote_code=args.trust_remote_code
            )
            tokenizer = read_tokenizer(name, **source)
            sharing = math.gcd(args.vllm_tensor_parallel_size, self.processes)

            def make_model() -> str:
                self.folder.clear()
                return make_small_model(config, tokenizer, name, path / MODEL, sharing, **source)

            self.model = decided_by_main(args, make_model)
        context = getattr(config.get_text_config(), "max_position_embeddings", None)
        data = self._few(self._load(tokenizer, context), settings)
        self._run(settings, AS_CONFIGURED, data, engine=settings.engine)
        self.lines = settings.lines + self.lines
        straight = AS_CONFIGURED
        if reason := settings.never_continued_exactly:
            self.resume_line = f"not made: {reason}"
            return
        if settings.engine:  # whose random state is in no checkpoint
            straight = STRAIGHT
            self._run(settings, STRAIGHT, data, engine=False)
        updates = settings.batch.updates
        self._run(settings, RESUMED, data, checkpoint=path / straight / f"{CHECKPOINT}{updates}")
        with self.parts.part("resume"):
            self.resume_line = decided_by_main(
                args,
                lambda: compare_resumed(path / straight, path / RESUMED, updates, exact=args.use_cpu),
            )
        if settings.engine:
            self.resume_line += "; transformers sampled for this: vLLM draws anew after a resume"

    def _check_options(self) -> None:
        args = self.args
        if str(args.resume_from_checkpoint).lower() not in ("none", "false", ""):
            raise ValueError(
                "resume_from_checkpoint continues a run, and rehearse makes small ones of its own: leave one of them out."
            )
        if self.script_args.rehearse_push and not args.push_to_hub:
            raise ValueError("rehearse_push pushes where push_to_hub is set, which it is not: add --push_to_hub.")
        self.notes += check_start(self.script_args, self.data_args, args, self.model_args)
        check_reporters(args)
        check_writable(Path(args.output_dir))
        decided_by_main(args, self.folder.make)
        if held := describe_contents(Path(args.output_dir)):
            self.notes.append(f"{args.output_dir} holds {held}: the run itself has to continue or overwrite it.")
        try:
            check_weights(self.model_args.model_name_or_path)
        except ValueError as error:  # they may come later: a rehearsal reads none
            self.notes.append(str(error))

    def _load(self, tokenizer: Any, context: int | None) -> ProblemData:
        with self.parts.part("rewards"):
            rewards = load_rewards(self.script_args)
        with self.parts.part("data"):
            check_golds = "math_reward" in self.script_args.reward_funcs
            data = load_problem_data(self.data_args, tokenizer, check_golds=check_golds)
            check_prompt_lengths(data.longest_prompt, self.args.max_completion_length, context)
            check_reward_columns(rewards, data.train, remove_unused_columns=self.args.remove_unused_columns)
            check_problems(len(data.train), self.args)
        with self.parts.part("plan"):  # with the prompts that there are: max_prompt_length may be far above them
            plan = make_plan(
                self.args,
                replace(self.data_args, max_prompt_length=data.longest_prompt),
                self.model_args,
                trainer=self.script_args.trainer,
                recipe=self.script_args.config_file,
            )
        self.notes += plan.notes
        return data

    def _few(self, data: ProblemData, settings: SmallSettings) -> ProblemData:
        """Problems for two rollout batches, and as many held-out ones as an evaluation in small takes."""
        number = min(2 * settings.batch.prompts(self.processes, self.args.num_generations), len(data.train))
        self.data_line = f"all {len(data.train):,} problems read and checked, {number} of them used"
        held_out = data.held_out
        if held_out is not None:
            held_out = held_out.select(range(min(max(4, self.processes), len(held_out))))
        return replace(data, train=data.train.select(range(number)), held_out=held_out)

    def _run(
        self,
        settings: SmallSettings,
        name: str,
        data: ProblemData,
        *,
        engine: bool = False,
        checkpoint: Path | None = None,
    ) -> None:
        """One small run, by the path of a real one."""
        resumes = checkpoint is not None
        with self.parts.part("resume" if resumes else "trainer"):
            change = settings.change(
                self.folder.path / name,
                engine=engine,
                push=self.script_args.rehearse_push and name == AS_CONFIGURED,
                checkpoint=checkpoint,
            )
            script_args, data_args, args, model_args = parse(self.arguments, change)
            if engine and not torch.cuda.is_available():
                keep_weights_loadable()
            trainer, start = build(script_args, data_args, args, model_args, data)
            if args.push_to_hub:
                decided_by_main(args, functools.partial(check_private, trainer.hub_model_id, args.hub_token))
                self.pushed = f"{trainer.hub_model_id}, private: remove it there once you have seen it"
            if resumes:
                train_and_save(trainer, start, data_args)
        if not resumes:
            self.lines += [line for line in sharding_lines(trainer) if line not in self.lines]
            if self.processes > 1:
                self.sharing = f", {trainer.accelerator.distributed_type.value}"
            self.parts.watch(trainer)
            with self.parts.part("updates"):
                train_and_save(trainer, start, data_args)
            with self.parts.part("final save"):
                decided_by_main(args, functools.partial(check_saved, Path(args.output_dir)))
        del trainer  # with the model, before the next one comes
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def report(self) -> str | None:
        """The table; None but in the main process. The processes part, and nothing of the rehearsal is left on disk."""
        everywhere: dict[str, Part] = {}
        for done in gather_object([self.parts.done]):
            for name, part in done.items():
                everywhere.setdefault(name, Part()).take(part)
        state = PartialState()
        is_main, device = state.is_main_process, state.device.type
        state.destroy_process_group()
        if not is_main:
            return None
        self.folder.remove()
        evaluation = "made" if "evaluation" in everywhere else "not set"
        gpu = any(part.gpu_gb for part in everywhere.values())
        rows = [
            f"  {name:<27}{part.seconds:>9.1f}{part.host_gb:>9.2f}" + f"{part.gpu_gb:>9.2f}" * gpu
            for name, part in everywhere.items()
        ]
        return "\n".join(
            [
                f"Rehearsed: {self.script_args.config_file or 'the command line'}, trainer {self.script_args.trainer}, "
                f"{self.processes} process{'es' * (self.processes > 1)} ({device}{self.sharing})",
                f"  model: {self.model_args.model_name_or_path} as {self.model}",
                f"  data: {self.data_line}",
                f"  resume: {self.resume_line}",
                f"  evaluation: {evaluation}",
                f"  push: {self.pushed if not self._push_left_out else 'left out; --rehearse_push makes it'}",
                f"{'':<29}{'seconds':>9}{'host GB':>9}" + f"{'GPU GB':>9}" * gpu,
                *rows,
                "Cut:",
                *(f"  {line}" for line in self.lines),
                "Added: a reward that differs from response to response, without which a random model learns nothing",
                "Not shown by a rehearsal:",
                NOT_SHOWN,
                *(f"Note: {note}" for note in self.notes),
            ]
        )

    @property
    def _push_left_out(self) -> bool:
        return bool(self.args.push_to_hub and not self.script_args.rehearse_push)
