"""Training from the command line: `accelerate launch -m delta_trl.train --config FILE.yaml`."""
