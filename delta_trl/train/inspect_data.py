"""Look at the data before training on it: prompts, lengths, difficulty, topics, and whether answers or tests can be used.

    delta-trl inspect --config configs/quickstart.yaml
    delta-trl inspect --dataset_name data.jsonl --question_column problem --answer_column answer

Reads the YAML of a training run and uses its data options and its model; everything else in it is left alone. Prints a
report and saves one picture.
"""

from pathlib import Path

from ..commands import one_line_errors, quiet_dependencies
from .option_names import UnknownOptionError, answer, remember


def main(arguments: list[str] | None = None) -> None:
    quiet_dependencies()
    with one_line_errors(arguments):
        inspect_data(arguments)


def inspect_data(words: list[str] | None) -> None:
    answer("inspect", words, ignore_unknown_keys=True)
    from ..data import DataArguments, load_problem_data
    from ..data.inspection import InspectionArguments, Statistics, describe_data, draw_lengths, show_examples
    from .parser import Parser

    parser = Parser(
        (DataArguments, InspectionArguments),
        usage="delta-trl inspect [--config FILE.yaml] [--option value ...]",
        description=__doc__,
    )
    try:
        arguments, options = parser.parse_command(words, ignore_unknown_keys=True)
    except (SystemExit, UnknownOptionError):  # SystemExit: for the help
        remember("inspect", parser, [DataArguments, InspectionArguments, Parser])
        raise
    tokenizer = None
    if options.model_name_or_path:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(options.model_name_or_path)
    elif arguments.max_prompt_length is not None:
        print("No model_name_or_path: lengths are in characters, and max_prompt_length is not applied.\n")
        arguments.max_prompt_length = None
    data = load_problem_data(arguments, tokenizer)
    counted = Statistics.of(data)
    print(show_examples(data, tokenizer, options.examples))
    print(describe_data(data, counted))
    what = "answers scorable" if arguments.problem_type == "math" else "tests usable"
    scorable = f"{1 - data.unscorable_share:.1%} of the {what}"
    title = f"{arguments.dataset_name}: {len(data.train)} problems, {scorable}"
    try:
        draw_lengths(Path(options.picture), title, counted, arguments.max_prompt_length)
    except ImportError:
        print("\nNo picture: it needs matplotlib, as in: pip install 'delta_trl[report]'")
    else:
        print(f"\nPicture: {options.picture}")


if __name__ == "__main__":
    main()
