"""Trains with vLLM in the training process, and writes how far its log-probs are from the policy's, for test_vllm.py.

python vllm_training.py MODEL OUTPUT [key=value ...]      # or under torchrun
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer
from delta_trl.config import CHECKPOINTING
from delta_trl.train.vllm_on_cpus import keep_weights_loadable


def log_probs(model, batch) -> torch.Tensor:
    """(B, T) log-probs of the completions, by a plain forward pass."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    taken = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return taken[:, -batch["completion_ids"].shape[1] :]


class Compared(DeltaGRPOTrainer):
    """Compares what vLLM says about each token it samples with the policy, and with the policy as it was at first."""

    seen = []
    first = None

    def _generate_and_score_completions(self, inputs):
        policy = self.accelerator.unwrap_model(self.model)
        batch = super()._generate_and_score_completions(inputs)
        mask = batch["completion_mask"].bool()
        sampled = batch["sampling_per_token_logps"]
        self.seen.append(
            {
                "from_policy": (sampled - log_probs(policy, batch))[mask].abs().mean().item(),
                "from_first": (sampled - log_probs(self.first, batch))[mask].abs().mean().item(),
                "ratio": batch["importance_sampling_ratio"].flatten().tolist(),
                "tokens": int(mask.sum()),
                "completions": self.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True),
            }
        )
        return batch


def length_reward(completions, **kwargs) -> list[float]:
    return [float(sum(character.isdigit() for character in completion)) for completion in completions]


def main() -> None:
    if "--as-it-is" in sys.argv:
        sys.argv.remove("--as-it-is")
    else:
        keep_weights_loadable()
    folder, output = sys.argv[1], Path(sys.argv[2])
    options = {key: json.loads(value) for key, _, value in (word.partition("=") for word in sys.argv[3:])}
    args = DeltaGRPOConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=False,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        **{CHECKPOINTING: False},
        disable_tqdm=True,
        **{
            "per_device_train_batch_size": 16,
            "num_generations": 4,
            "max_completion_length": 12,
            "max_steps": 4,
            "learning_rate": 1e-2,
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": 0.1,
            "vllm_max_model_length": 64,
            "vllm_importance_sampling_mode": "token_truncate",
            **options,
        },
    )
    trainer = Compared(
        model=folder,
        reward_funcs=length_reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": [f"{i}+{i * 7 % 10}=?\n" for i in range(64)]}),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
    )
    # Not a copy of trainer.model, whose forward TRL replaces by one bound to the original
    trainer.first = AutoModelForCausalLM.from_pretrained(folder)
    trainer.train()
    record = {
        "batches": trainer.seen,
        "history": trainer.state.log_history,
        "world": trainer.accelerator.num_processes,
    }
    (output / f"record_{trainer.accelerator.process_index}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
