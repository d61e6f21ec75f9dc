"""A run of eight updates with real generation, two updates on each rollout batch, a checkpoint after every second.

`--kill`: SIGKILL in the middle of the sixth update. `--resume`: continue from the last checkpoint. test_resume.py starts
this on one and on two processes.
"""

import os
import signal
import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import build, config
from leaving import leave_together

from delta_trl import DeltaGRPOTrainer


class KilledTrainer(DeltaGRPOTrainer):
    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        if self.state.global_step == 5 and self._step % self.args.gradient_accumulation_steps == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss


def main():
    output, flags = sys.argv[1], sys.argv[2:]
    args = config(
        output,
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        max_steps=8,
        save_strategy="steps",
        save_steps=2,
    )
    trainer = build(KilledTrainer if "--kill" in flags else DeltaGRPOTrainer, args)
    assert trainer.accelerator.num_processes == int(os.environ.get("WORLD_SIZE", 1))
    trainer.train(resume_from_checkpoint="--resume" in flags)
    if torch.distributed.is_initialized():
        leave_together()


if __name__ == "__main__":
    main()
