"""Train a causal language model with DelTA, or with another method for comparison (`--trainer`):

    accelerate launch scripts/train.py --config configs/quickstart.yaml --learning_rate 2e-5

Every option of the trainer's config, of TRL's ModelConfig (PEFT and quantization) and of the data is accepted, in the YAML
file and on the command line, which wins. An unknown key is an error. `--help` lists them all (those of FIPO with `--trainer
fipo`). `--plan` says what a run would do and need, and stops; `--plan --plan_processes 8` says it for 8 GPUs on a machine
without any.
"""

import importlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trl import ModelConfig, TrlParser

from delta_trl.config import RolloutConfig
from delta_trl.data import DataArguments
from delta_trl.methods import DEFAULT, METHODS, check_method, describe, method_named, trainer_argument
from delta_trl.plan import PlanArguments, config_on, make_plan, plan_arguments


@dataclass
class ScriptArguments(PlanArguments):
    trainer: str = field(
        default=DEFAULT,
        metadata={
            "choices": list(METHODS),
            "help": f"Training method. {describe()}. A method's own settings are defaults that may not be contradicted.",
        },
    )
    reward_funcs: list[str] = field(
        default_factory=lambda: ["math_reward"],
        metadata={
            "help": "Reward functions: 'math_reward' (1 for a right boxed answer, else 0), 'soft_overlong' (TRL's length "
            "penalty), or a dotted import path such as 'my_package.my_reward'."
        },
    )
    soft_overlong_max_length: int | None = field(
        default=None, metadata={"help": "For 'soft_overlong': response length in tokens from which the penalty is -1."}
    )
    soft_overlong_cache: int | None = field(
        default=None, metadata={"help": "For 'soft_overlong': the penalty grows over this many tokens before that."}
    )


def parse(
    arguments: list[str] | None = None,
) -> tuple[ScriptArguments, DataArguments, RolloutConfig, ModelConfig]:
    """Parse the command line and its YAML file; a plan's config is built as on the number of processes planned for."""
    early, name = plan_arguments(arguments), trainer_argument(arguments)
    method = method_named(name)
    config_class = config_on(early.plan_processes, method.config_class) if early.plan else method.config_class
    parser = TrlParser((ScriptArguments, DataArguments, config_class, ModelConfig))
    unknown = parser.set_defaults_with_config(**method.preset)
    assert not unknown, f"the preset of {name!r} has options that its config lacks: {unknown}"
    parsed = parser.parse_args_and_config(arguments)
    if (parsed[0].plan, parsed[0].plan_processes) != (early.plan, early.plan_processes):
        raise ValueError("plan and plan_processes belong on the command line: the YAML file describes the run.")
    if parsed[0].trainer != name:  # argparse completes '--train sapo', which was parsed with another trainer's options
        raise ValueError(f"trainer {parsed[0].trainer!r} was given by an abbreviation. Write --trainer in full.")
    check_method(name, parsed[2])
    return parsed


def load_rewards(script_args: ScriptArguments) -> list[Callable]:
    """The reward functions named by `reward_funcs`."""
    lengths = (script_args.soft_overlong_max_length, script_args.soft_overlong_cache)
    if ("soft_overlong" in script_args.reward_funcs) != (None not in lengths) or lengths.count(None) == 1:
        raise ValueError(
            "The reward 'soft_overlong' needs both soft_overlong_max_length and soft_overlong_cache, and they mean nothing "
            f"without it; got reward_funcs={script_args.reward_funcs} and lengths {lengths}."
        )
    rewards = []
    for name in script_args.reward_funcs:
        if name == "math_reward":
            from delta_trl.rewards import math_reward

            rewards.append(math_reward)
        elif name == "soft_overlong":
            from trl.rewards import get_soft_overlong_punishment

            rewards.append(get_soft_overlong_punishment(*lengths))
        elif "." in name:
            sys.path.insert(0, os.getcwd())
            module, _, function = name.rpartition(".")
            rewards.append(getattr(importlib.import_module(module), function))
        else:
            raise ValueError(
                f"Unknown reward function {name!r}: expected 'math_reward', 'soft_overlong' or a dotted import path."
            )
    return rewards


def main(script_args: ScriptArguments, data_args: DataArguments, args: RolloutConfig, model_args: ModelConfig) -> None:
    from transformers import AutoTokenizer, PrinterCallback, ProgressCallback
    from trl import get_peft_config, get_quantization_config

    from delta_trl.callbacks import ReadableProgressCallback

    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.WARNING, format="%(message)s")
    if model_args.model_name_or_path is None:
        raise ValueError("model_name_or_path is missing: name a model on the Hub or a folder.")
    rewards = load_rewards(script_args)
    if script_args.plan:
        plan = make_plan(
            args, data_args, model_args, trainer=script_args.trainer, gpu_memory=script_args.plan_gpu_memory
        )
        if args.process_index == 0:
            print(plan)
        return
    source = {"revision": model_args.model_revision, "trust_remote_code": args.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(
        model_args.model_name_or_path, truncation_side="left", padding_side="left", **source
    )
    data = data_args.load(tokenizer)

    args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(args.model_init_kwargs or {}),
    }
    trainer = method_named(script_args.trainer).trainer_class(
        model=model_args.model_name_or_path,
        reward_funcs=rewards,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.held_out if args.eval_strategy != "no" else None,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
    trainer.add_callback(ReadableProgressCallback)

    # "true" resumes from the newest checkpoint of output_dir, as transformers' own scripts do
    resume = args.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if resume in ("true", "True") else resume)
    trainer.save_model(_internal_call=True)  # without pushing: that comes last, when everything is on disk
    trainer.save_state()
    trainer.create_model_card(model_name=Path(args.output_dir).name, dataset_name=data_args.dataset_name)
    trainer.accelerator.print(f"Model and metrics (trainer_state.json) saved to {args.output_dir}.")
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=data_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to the Hub as {trainer.hub_model_id}.")
    trainer.end()


if __name__ == "__main__":
    main(*parse())
