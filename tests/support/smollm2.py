"""A short training of SmolLM2, which a test also makes in a process of its own."""

from datasets import Dataset

from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer


def trained(folder, tokenizer, output, peft_config=None, **options):
    """One update on 8 answers; the chat template, and rewards that differ."""
    args = DeltaGRPOConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=False,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        log_completions=True,
        num_completions_to_print=0,
        **{
            "activation_checkpointing": False,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 12,
            "max_steps": 1,
            "learning_rate": 1e-5,
            "model_init_kwargs": {"dtype": "float32"},
            **options,
        },
    )
    trainer = DeltaGRPOTrainer(
        model=str(folder),
        reward_funcs=lambda completions, **kwargs: [len(c[0]["content"]) % 7 / 7 for c in completions],
        args=args,
        train_dataset=Dataset.from_dict(
            {"prompt": [[{"role": "user", "content": f"Tell me about the number {i}."}] for i in range(8)]}
        ),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    trainer.train()
    return trainer
