"""For mkdocstrings: docstrings as Hugging Face writes them, and the help texts of options."""

import ast
import re
from typing import Any

import griffe


class HuggingFaceDocstrings(griffe.Extension):
    """References in brackets, types in backticks, several parameters in one entry, and fields described by their `help`."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is None:
            return
        text = re.sub(r"\[`~?([\w.]+)`\]", r"`\1`", obj.docstring.value)
        text = re.sub(r"^(\s+)`(\w+Error)`:", r"\1\2:", text, flags=re.MULTILINE)
        heads = re.compile(r"^( +[\w, ]+\()(.*`.*)(\):.*)$", re.MULTILINE)
        text = heads.sub(lambda m: m[1] + m[2].replace("`", "") + m[3], text)
        if obj.is_function:
            names = {parameter.name.lstrip("*") for parameter in obj.parameters}
            text = one_entry_each(text, names)
        elif obj.is_class and (options := described_fields(obj)):
            entries = "".join(f"    {name}: {help_text}\n" for name, help_text in options.items())
            before, raises, after = text.partition("Raises:\n")
            text = f"{before.rstrip()}\n\nAttributes:\n{entries}\n{raises}{after}"
        obj.docstring.value = text


def one_entry_each(text: str, names: set[str]) -> str:
    """`a, b: ...` among the parameters as `a: ...` and `b: ...`."""

    def change(match: re.Match) -> str:
        together = match["names"].split(", ")
        if not names.issuperset(name.lstrip("*") for name in together):
            return match[0]
        return "\n".join(match["indent"] + name + match["rest"] for name in together)

    pattern = r"^(?P<indent> *)(?P<names>[\w*]+(?:, [\w*]+)+)(?P<rest>(?: \(.*\))?:.*(?:\n(?P=indent) +\S.*)*)$"
    return re.sub(pattern, change, text, flags=re.MULTILINE)


def described_fields(cls: griffe.Class) -> dict[str, str]:
    """The help texts of a dataclass's options, its parents' in this package included."""
    described = {}
    for name, member in cls.all_members.items():
        if member.is_attribute and str(member.value).startswith("field("):
            call = ast.parse(str(member.value), mode="eval").body
            metadata = next((keyword.value for keyword in call.keywords if keyword.arg == "metadata"), None)
            options = {} if metadata is None else dict(zip(metadata.keys, metadata.values, strict=True))
            for key, value in options.items():
                if ast.literal_eval(key) == "help":
                    # Names in an f-string stand as they are in the code: nothing is imported here
                    parts = value.values if isinstance(value, ast.JoinedStr) else [value]
                    texts = [p.value if isinstance(p, ast.Constant) else f"`{ast.unparse(p.value)}`" for p in parts]
                    described[name] = "".join(texts).replace("%%", "%")
    return described
