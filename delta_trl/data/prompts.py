"""How a question becomes a prompt."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
# What Eurus-2-RL-Data puts after a programming problem
CODE_INSTRUCTION = (
    "\nWrite Python code to solve the problem. Present the code in \n```python\nYour code\n```\nat the end."
)
# The published recipe's prompt for base models: plain text, no chat template, no system prompt.
PAPER_TEMPLATE = "User:\n{question}\n{instruction}\n\nAssistant:\n"
# A name in braces, with what makes it an argument of LaTeX instead: \boxed{answer}, x^{n}, \frac{a}{b}
_BRACES = re.compile(r"(\\[a-zA-Z]+|[}^_])?\{([^{}\n]+)\}")


@dataclass(frozen=True)
class PromptFormat:
    r"""How a question becomes a prompt.

    Attributes:
        name: "paper", "chat", or a template of one's own that contains `{question}`.
        system_prompt: First message of a "chat" prompt, or None.
        instruction: What "paper" and "chat" put after the question: `INSTRUCTION`, or `CODE_INSTRUCTION`.
    """

    name: str = "paper"
    system_prompt: str | None = None
    instruction: str = INSTRUCTION

    def __post_init__(self):
        if self.name not in ("paper", "chat") and "{question}" not in self.name:
            raise ValueError(
                f"prompt_format must be 'paper', 'chat', or a template that contains {{question}}, got {self.name!r}."
            )
        if self.system_prompt is not None and self.name != "chat":
            raise ValueError(
                f"system_prompt is only used by prompt_format 'chat', not by {self.name!r}. Drop it, or write it into "
                "a template of your own."
            )

    def render(self, question: str, instruct: bool = True) -> str | list[dict[str, str]]:
        """The prompt: a string, or for "chat" a list of messages that TRL renders with the chat template.

        With `instruct` off, "paper" and "chat" add no instruction: the question says itself how it is to be answered.
        """
        instruction = f"\n{self.instruction}" if instruct else ""
        if self.name == "chat":
            system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt is not None else []
            return [*system, {"role": "user", "content": f"{question}{instruction}"}]
        # Not str.format: questions and templates are full of LaTeX braces.
        template = PAPER_TEMPLATE.replace("\n{instruction}", instruction) if self.name == "paper" else self.name
        return template.replace("{question}", question)

    def check_placeholders(self, columns: Collection[str]) -> None:
        """Raise ValueError if a text names one of these columns in braces: nothing but the question is filled in."""
        template = "" if self.name in ("paper", "chat") else self.name.replace("{question}", "")
        for option, text in (("prompt_format", template), ("system_prompt", self.system_prompt or "")):
            named = [name for latex, name in _BRACES.findall(text) if not latex]
            if unfilled := [name for name in dict.fromkeys(named) if name in columns or name == "question"]:
                raise ValueError(
                    f"{option} contains {{{'}, {'.join(unfilled)}}}, a column of the data, but only {{question}} in "
                    "prompt_format is filled in: every prompt would show the braces. Put the other columns into the "
                    "question's text when the data is made, and take them out here."
                )

    @property
    def stop_strings(self) -> list[str]:
        """Texts that end a response besides the end-of-sequence token.

        A base model that has answered a "paper" prompt may go on and write the next user's turn.
        """
        return ["\nUser:"] if self.name == "paper" else []

    def end_token_ids(self, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        """Token ids that end a response: the tokenizer's, and for "chat" what the template puts after a message."""
        ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        if self.name == "chat":
            self.check(tokenizer)
            mark = "answer"
            text = tokenizer.apply_chat_template(
                [*self.render("question"), {"role": "assistant", "content": mark}], tokenize=False
            )
            after = tokenizer(text.rpartition(mark)[2], add_special_tokens=False)["input_ids"]
            special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
            ids += [token for token in after[:1] if token in special and token not in ids]
        return ids

    def check(self, tokenizer: "PreTrainedTokenizerBase | None") -> None:
        """Raise ValueError if the tokenizer cannot render this format."""
        if self.name == "chat" and tokenizer is not None and not tokenizer.chat_template:
            raise ValueError(
                f"prompt_format 'chat' needs a chat template, and the tokenizer of {tokenizer.name_or_path!r} has "
                "none: it belongs to a base model. Use prompt_format 'paper' (made for base models) or a template of "
                "your own, or set tokenizer.chat_template before loading the data."
            )

    def count_tokens(
        self, prompts: list[str] | list[list[dict[str, str]]], tokenizer: "PreTrainedTokenizerBase"
    ) -> list[int]:
        """Tokens of rendered prompts, counted as TRL will tokenize them."""
        if not prompts:
            return []
        if isinstance(prompts[0], str):
            return [len(ids) for ids in tokenizer(prompts)["input_ids"]]
        texts = [tokenizer.apply_chat_template(p, add_generation_prompt=True, tokenize=False) for p in prompts]
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
