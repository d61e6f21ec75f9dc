"""The same as `python -m delta_trl.evaluation.compare`, for a checkout."""

from delta_trl.evaluation.compare import main


if __name__ == "__main__":
    main()
