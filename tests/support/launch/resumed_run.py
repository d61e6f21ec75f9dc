"""A run of eight updates with real generation, two updates on each rollout batch, a checkpoint after every second.

`WHOLE KILLED`: one run to its end, then another that is killed in the middle of its sixth update. `--resume KILLED`:
continue that one from its last checkpoint. test_resume.py starts this on one and on two processes.
"""

import os
import signal
import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[2]))

from leaving import leave_together
from support.models import build, config

from delta_trl import DeltaGRPOTrainer


class KilledTrainer(DeltaGRPOTrainer):
    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        if self.state.global_step == 5 and self._step % self.args.gradient_accumulation_steps == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss


def run(output: str, trainer_class=DeltaGRPOTrainer, resume: bool = False) -> None:
    args = config(
        output,
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        max_steps=8,
        save_strategy="steps",
        save_steps=2,
    )
    trainer = build(trainer_class, args)
    assert trainer.accelerator.num_processes == int(os.environ.get("WORLD_SIZE", 1))
    trainer.train(resume_from_checkpoint=resume)


def main():
    first, second = sys.argv[1:]
    if first == "--resume":
        run(second, resume=True)
    else:
        run(first)
        run(second, KilledTrainer)
    if torch.distributed.is_initialized():
        leave_together()


if __name__ == "__main__":
    main()
