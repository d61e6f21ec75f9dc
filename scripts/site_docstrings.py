"""For mkdocstrings: docstrings as Hugging Face writes them, with references in brackets and types in backticks."""

import re
from typing import Any

import griffe


class HuggingFaceDocstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = re.sub(r"\[`~?([\w.]+)`\]", r"`\1`", obj.docstring.value)
            text = re.sub(r"^(\s+)`(\w+Error)`:", r"\1\2:", text, flags=re.MULTILINE)
            heads = re.compile(r"^( +[\w, ]+\()(.*`.*)(\):.*)$", re.MULTILINE)
            obj.docstring.value = heads.sub(lambda m: m[1] + m[2].replace("`", "") + m[3], text)
