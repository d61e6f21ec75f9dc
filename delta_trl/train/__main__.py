"""Train a causal language model with DelTA, or with another method for comparison (`--trainer`):

    accelerate launch -m delta_trl.train --config configs/quickstart.yaml --learning_rate 2e-5

Every option of the trainer's config, of TRL's ModelConfig (PEFT and quantization) and of the data is accepted, in the YAML
file and on the command line, which wins. An unknown key is an error. `--help` lists them all (those of FIPO with `--trainer
fipo`). `--plan` says what a run would do and need, and stops; `--plan --plan_processes 8` says it for 8 GPUs on a machine
without any.
"""

import logging
from pathlib import Path

from trl import ModelConfig

from ..config import RolloutConfig
from ..data import DataArguments
from .arguments import ScriptArguments, parse
from .methods import method_named
from .plan import make_plan
from .rewards import load_rewards


def train(
    script_args: ScriptArguments, data_args: DataArguments, args: RolloutConfig, model_args: ModelConfig
) -> None:
    from transformers import AutoTokenizer, PrinterCallback, ProgressCallback
    from trl import get_peft_config, get_quantization_config

    from ..progress import ReadableProgressCallback

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


def main(arguments: list[str] | None = None) -> None:
    train(*parse(arguments))


if __name__ == "__main__":
    main()
