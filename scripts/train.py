"""The same as `python -m delta_trl.train`, for a checkout: `accelerate launch scripts/train.py --config FILE.yaml`."""

from delta_trl.train.__main__ import main


if __name__ == "__main__":
    main()
