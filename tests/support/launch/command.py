"""One process of the training command under a launcher, on a machine without GPUs: `command.py LAUNCHER --config ...`."""

import sys
from pathlib import Path


# Before the first import of accelerate, which reads them
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]


def main():
    launcher = sys.argv.pop(1)
    if launcher == "fsdp2":
        from fsdp2_on_cpu import let_fsdp2_run_on_cpu

        let_fsdp2_run_on_cpu()
    else:
        import deepspeed

        # See worker.py: collectives that a GPU does not have either would be compiled
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    from delta_trl.train.__main__ import main as train

    train()


if __name__ == "__main__":
    main()
