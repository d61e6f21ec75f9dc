"""The same as `python -m delta_trl.evaluation`, for a checkout."""

from delta_trl.evaluation.__main__ import main


if __name__ == "__main__":
    main()
