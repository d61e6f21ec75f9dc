"""Train a causal language model with DelTA, or with plain GRPO for comparison:

accelerate launch scripts/train.py --config configs/quickstart.yaml --learning_rate 2e-5

Every option of DeltaGRPOConfig, of TRL's ModelConfig (PEFT and quantization) and of DataArguments is accepted, in the YAML
file and on the command line, which wins. An unknown key is an error.
"""

from dataclasses import dataclass, field
from typing import Literal

from trl import ModelConfig, TrlParser

from delta_trl import DeltaGRPOConfig
from delta_trl.data import DataArguments


@dataclass
class ScriptArguments:
    trainer: Literal["delta", "grpo"] = field(
        default="delta",
        metadata={
            "help": "Which trainer runs: DeltaGRPOTrainer, or TRL's GRPOTrainer as the baseline, on otherwise equal settings."
        },
    )
    reward_funcs: list[str] = field(
        default_factory=lambda: ["math_reward"],
        metadata={"help": "Reward functions: 'math_reward', or a dotted import path such as 'my_package.my_reward'."},
    )


def main(script_args: ScriptArguments, data_args: DataArguments, args: DeltaGRPOConfig, model_args: ModelConfig) -> None:
    import logging

    from transformers import PrinterCallback, ProgressCallback
    from trl import GRPOTrainer, get_peft_config, get_quantization_config

    from delta_trl import DeltaGRPOTrainer
    from delta_trl.callbacks import ReadableProgressCallback
    from delta_trl.rewards import load_rewards

    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.WARNING, format="%(message)s")
    check(script_args, args, model_args)
    rewards = load_rewards(script_args.reward_funcs)
    train_dataset, eval_dataset = data_args.load(model_args.model_name_or_path)

    args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(args.model_init_kwargs or {}),
    }
    trainer = {"delta": DeltaGRPOTrainer, "grpo": GRPOTrainer}[script_args.trainer](
        model=model_args.model_name_or_path,
        reward_funcs=rewards,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset if args.eval_strategy != "no" else None,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
    trainer.add_callback(ReadableProgressCallback)

    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    trainer.accelerator.print(f"Model and metrics (trainer_state.json) saved to {args.output_dir}.")
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=data_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to the Hub as {trainer.hub_model_id}.")
    trainer.end()
