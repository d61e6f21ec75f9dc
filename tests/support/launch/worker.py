"""One process of a real training run on given rollouts. test_launchers.py starts it under every launcher, and runs
`train` itself for the run on one process that the others must equal.

A rollout batch has 16 responses to 4 prompts, the same for every number of processes; each of them holds a few. Every
rollout batch is another case for the reduction over processes, see `CASES`.
"""

import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch


# Before the first import of accelerate, which reads them
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from accelerate.state import GradientState  # noqa: E402
from leaving import leave_together  # noqa: E402
from peft import LoraConfig  # noqa: E402
from support.models import build, config, digit_reward, prompts, tiny_model  # noqa: E402
from support.vllm_client import StandInClient, install  # noqa: E402

from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer  # noqa: E402
from delta_trl import credit as credit_module  # noqa: E402
from delta_trl.methods.fipo import FIPOConfig, FIPOTrainer  # noqa: E402
from delta_trl.methods.hashed_agreement import HashedAgreementGRPOConfig, HashedAgreementGRPOTrainer  # noqa: E402
from delta_trl.methods.rlsd import RLSDConfig  # noqa: E402
from delta_trl.methods.shear import SHEARConfig  # noqa: E402
from delta_trl.methods.stare import STAREConfig  # noqa: E402
from delta_trl.token_credit import TokenCreditTrainer  # noqa: E402


RESPONSES = 16
RAISES_AFTER = 3
GROUP = 4
CASES = [
    "uneven lengths",
    "no token on the second half",
    "one side on each half",
    "no advantage on the second half",
    "no advantage at all",
    "all lengths equal",
]
VARIANTS = {
    # One update on each rollout batch: TRL makes no pass of its own, and the trainer adds one
    "one update": {"gradient_accumulation_steps": 2, "steps_per_generation": 2, "max_steps": len(CASES)},
    # Two updates: hidden states are recorded in TRL's own pass. Both see the whole rollout batch, so that it does not
    # matter which process holds which response.
    "two updates": {
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 1,
        "num_iterations": 2,
        "max_steps": 2 * len(CASES),
    },
    # Adapters, a reference that is the policy without them, and checkpointed activations
    "LoRA": {
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
        "max_steps": len(CASES),
        "beta": 0.1,
        "activation_checkpointing": True,
    },
    # No coefficients: weights from what the first update did
    "FIPO": {
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 1,
        "num_iterations": 2,
        "max_steps": 2 * len(CASES),
    },
    # A quantile over the tokens of all processes, and an entropy that switches it: on at any
    "STARE": {
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
        "max_steps": len(CASES),
        "stare_target_entropy": 100.0,
        "stare_weight": 1.5,
    },
    # Hidden states and numbers of responses from all processes: a prompt group may lie on both
    "SHEAR": {
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
        "max_steps": len(CASES),
        "shear_span": 4,
        "shear_stride": 2,
    },
    # Tables of all processes, which a token's own response is subtracted from
    "hashed agreement": {
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
        "max_steps": len(CASES),
    },
    # Coefficients in the loss, at sums over all processes of the rollout batch before. One pass for all of them, since each
    # process shuffles its own, and coefficients have mean 1 over those that pass together.
    "previous": {
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 1,
        "max_steps": len(CASES),
        "coef_centroids": "previous",
    },
    # A second pass, over longer prompts of other lengths
    "RLSD": {
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
        "max_steps": len(CASES),
        "rlsd_mix": 1.0,
        "rlsd_clip": 0.5,
    },
    # Real sampling, not the cases: TRL sends weights to a server (see vllm_client.py) and hands out what it returns
    "vLLM server": {
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
        "max_steps": 3,
        "use_vllm": True,
        "vllm_mode": "server",
        "mask_truncated_completions": False,
    },
}
# Made before there is a config: under ZeRO-3 it would be sharded. Its weights are overwritten before it is used.
SERVER_MODEL = tiny_model(seed=1)
# Trainers other than DelTA's with coefficients of a rollout batch before its losses
TRAINERS = {
    "previous": (DeltaGRPOTrainer, DeltaGRPOConfig),
    "FIPO": (FIPOTrainer, FIPOConfig),
    "STARE": (TokenCreditTrainer, STAREConfig),
    "SHEAR": (TokenCreditTrainer, SHEARConfig),
    "hashed agreement": (HashedAgreementGRPOTrainer, HashedAgreementGRPOConfig),
    "RLSD": (TokenCreditTrainer, RLSDConfig),
}
WITH_COEFFICIENTS = [variant for variant in VARIANTS if variant not in (*TRAINERS, "vLLM server")]


@dataclass(frozen=True)
class Response:
    text: str
    reward: float
    finished: bool = True  # an unfinished response is masked out: it has no token


def response(case: str, row: int) -> Response:
    generator = random.Random(f"{case} {row}")
    second_half = row >= RESPONSES // 2
    length = 8 if case == "all lengths equal" else 1 + row * 5 % 9 + 4 * second_half
    text = "".join(generator.choices("abcdefgh0123456789+=", k=length))
    reward = [1.0, 0.0, generator.random(), generator.random()][row % GROUP]
    if case == "no token on the second half":
        return Response(text, reward, finished=not second_half)
    if case == "one side on each half":
        reward = float(row % 2)
        return Response(text, reward, finished=bool(reward) != second_half)
    if (case == "no advantage on the second half" and second_half) or case == "no advantage at all":
        reward = 1.0
    return Response(text, reward)


def rollouts(prompts, trainer):
    """The responses of this process: its slice of the rollout batch, in TRL's order."""
    updates = trainer.args.max_steps // len(CASES)
    case = CASES[trainer.state.global_step // updates]
    first = trainer.accelerator.process_index * len(prompts)
    assert trainer.accelerator.num_processes * len(prompts) == RESPONSES
    responses = [response(case, row) for row in range(first, first + len(prompts))]
    tokenizer = trainer.processing_class
    return {
        "prompt_ids": [tokenizer(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": [tokenizer(r.text)["input_ids"] + [tokenizer.eos_token_id] * r.finished for r in responses],
        "logprobs": None,
        "given_reward": [r.reward for r in responses],
    }


def given(completions, given_reward, **kwargs):
    return given_reward


def given_until_it_raises(completions, given_reward, trainer_state, **kwargs):
    if trainer_state.global_step == RAISES_AFTER and int(os.environ["RANK"]) == 1:
        raise KeyError("answer")
    return given_reward


class Recording:
    """Keeps the coefficients of each rollout batch, a list of one tensor for each response of this process."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.kept = []

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        if "token_coefficients" in batch:  # others' weights come in the loss
            self._keep(batch)
        return batch

    def _finish(self, done):
        super()._finish(done)
        self._keep(done.batch)

    def _keep(self, batch):
        rows = zip(batch["token_coefficients"], batch["completion_mask"].bool(), strict=True)
        self.kept.append([coefficients[mask].clone() for coefficients, mask in rows])


def held(parameters) -> tuple[int, int]:
    """Elements of the parameters that lie on this process, and of all of them."""
    here = everywhere = 0
    for parameter in parameters:
        if hasattr(parameter, "ds_tensor"):  # DeepSpeed ZeRO-3
            here += parameter.ds_tensor.numel() + parameter.numel()
            everywhere += parameter.ds_numel
        else:
            local = parameter.to_local() if hasattr(parameter, "to_local") else parameter  # FSDP2
            here += local.numel()
            everywhere += parameter.numel()
    return here, everywhere


def train(base: Path, output: Path, variant: str, reward=given, checkpoint: Path | None = None) -> dict:
    """Train the model in `base`, save it in `output`, and return what another number of processes must reproduce."""
    options = VARIANTS[variant]
    processes = int(os.environ.get("WORLD_SIZE", 1))
    trainer_class, config_class = TRAINERS.get(variant, (DeltaGRPOTrainer, DeltaGRPOConfig))
    args = config(
        output,
        config_class,
        **{
            "per_device_train_batch_size": RESPONSES // processes // options["steps_per_generation"],
            "num_generations": GROUP,
            "max_completion_length": 32,
            "mask_truncated_completions": True,
            # An optimiser that normalises gradients would hide a wrong factor in them. Momentum is a state to restore.
            "optim": "sgd",
            "optim_args": "momentum=0.5",
            "learning_rate": 0.05,
            "lr_scheduler_type": "constant",
            **options,
        },
    )
    if args.use_vllm:
        install(StandInClient(SERVER_MODEL))
        sampling = {"reward_funcs": digit_reward}
    else:
        sampling = {"reward_funcs": reward, "rollout_func": rollouts}
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if variant == "LoRA" else None
    # A path, not an instance: under ZeRO-3 a new model would get other random weights
    recording = type(trainer_class.__name__, (Recording, trainer_class), {})
    data = prompts().map(lambda row: {"solution": row["prompt"][:3] * (1 + len(row["prompt"]) % 3)})
    trainer = build(recording, args, str(base), **sampling, peft_config=lora, train_dataset=data)
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    trainer.save_model(str(output))
    return {
        "distributed_type": trainer.accelerator.distributed_type.value,
        "num_processes": trainer.accelerator.num_processes,
        "wrapper": type(trainer.model_wrapped).__name__,
        "zero_stage": getattr(trainer.model_wrapped, "zero_optimization_stage", lambda: None)(),
        "parameters": held(trainer.model.parameters()),
        "optimised": (
            sum(held(group["params"])[0] for group in trainer.optimizer.param_groups),
            held(p for p in trainer.model.parameters() if p.requires_grad)[1],
        ),
        "coefficients": trainer.kept,
        "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
    }


def without_reduction():
    """A mutation that a comparison must find: every process computes coefficients from its own tokens."""
    compute = credit_module.delta_coefficients

    def alone(*args, all_reduce, **kwargs):
        return compute(*args, **kwargs, all_reduce=None)

    credit_module.delta_coefficients = alone


def stop_and_continue(base: Path, output: Path) -> dict:
    """A reward function raises on one of the processes; then the run is continued from the checkpoint that was left."""
    try:
        train(base, output, "one update", reward=given_until_it_raises)
    except RuntimeError as error:
        message = str(error)
    GradientState._reset_state()  # as in a new process: the stopped run left it in the middle of an accumulation
    return {"message": message, **train(base, output, "one update", checkpoint=output / f"checkpoint-{RAISES_AFTER}")}


def main():
    launcher, base, output = sys.argv[1], *map(Path, sys.argv[2:])
    if launcher == "fsdp2":
        from fsdp2_on_cpu import let_fsdp2_run_on_cpu

        let_fsdp2_run_on_cpu()
    if launcher.startswith("zero"):
        import deepspeed

        # Or collectives through shared memory would be compiled, for half a minute, that a GPU does not have either
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    rank = int(os.environ["RANK"])
    for variant in VARIANTS:
        torch.save(train(base, output / variant, variant), output / variant / f"rank{rank}.pt")
    torch.save(stop_and_continue(base, output / "stopped"), output / "stopped" / f"rank{rank}.pt")
    if launcher == "ddp":
        without_reduction()
        torch.save(train(base, output / "mutated", "one update"), output / "mutated" / f"rank{rank}.pt")
    leave_together()


if __name__ == "__main__":
    main()
