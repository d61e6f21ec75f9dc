"""Tables of text in Markdown, for the terminal too, and in LaTeX; and empty figures. For evaluation and research alike."""

from collections.abc import Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = ("markdown", "latex")


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], style: str = "markdown") -> str:
    """A table of text cells; the first column is aligned left, the others right.

    Raises:
        ValueError: `style` is none of `STYLES`.
    """
    if style not in STYLES:
        raise ValueError(f"style is one of {STYLES}, got {style!r}.")
    if style == "latex":
        lines = [" & ".join(map(_latex, row)) + r" \\" for row in (header, *rows)]
        lines[1:1] = [r"\midrule"]
        columns = "l" + "r" * (len(header) - 1)
        return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}"])
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in (header, rule, *rows):
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def new_figure(size: tuple[float, float]) -> "Figure":
    """An empty figure of so many inches.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("The plot needs matplotlib: pip install 'delta_trl[report]'.") from error
    return Figure(figsize=size, layout="constrained")  # not pyplot, which would choose a backend


def _latex(cell: str) -> str:
    bold = cell.startswith("**")
    for plain, escaped in (("\\", r"\textbackslash{}"), ("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("#", r"\#")):
        cell = cell.replace(plain, escaped)
    cell = cell.strip("*").replace("±", r"$\pm$") if bold else cell.replace("±", r"$\pm$")
    return rf"\textbf{{{cell}}}" if bold else cell
