"""Token records for the report: the text of single tokens, and files that are whole."""

import pandas as pd
import pytest
from datasets import Dataset
from support.models import build, config
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from delta_trl import DeltaGRPOTrainer
from delta_trl.records import token_texts
from delta_trl.run_folder import token_record_files, write_token_records


KINDS = {
    "bytes": (pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()),
    "metaspace": (pre_tokenizers.Metaspace(), decoders.Metaspace()),
}


def trained_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = KINDS[kind]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else []
    trainer = trainers.BpeTrainer(vocab_size=270, special_tokens=["<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the sum of two numbers"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


@pytest.mark.parametrize("kind", KINDS)
def test_the_texts_of_the_tokens_are_the_text_of_the_completion(kind):
    tokenizer = trained_tokenizer(kind)
    ids = tokenizer("the sum of the two<eos>")["input_ids"]
    texts = token_texts(ids, tokenizer)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids)
    assert any(text.startswith(" ") for text in texts)
    assert texts[-1] == "<eos>"


def test_a_character_split_over_tokens_is_shown_at_the_last_of_them():
    tokenizer = trained_tokenizer("bytes")
    ids = tokenizer("a😀")["input_ids"]
    assert len(ids) == 5
    assert token_texts(ids, tokenizer) == ["a", "", "", "", "😀"]


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_is_killed_while_it_writes_leaves_no_torn_file(tmp_path, monkeypatch, there):
    """What is there under the name of a step is whole, the new records or those of before."""
    path = tmp_path / "completions" / "coefficients_00003.parquet"
    if there:
        write_token_records([{"reward": 0.5}], tmp_path, 3)

    def killed(frame, path):
        path.write_bytes(b"PAR1")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_parquet", killed)
    with pytest.raises(KeyboardInterrupt):
        write_token_records([{"reward": 1.0}], tmp_path, 3)
    assert [pd.read_parquet(file).reward.tolist() for file in token_record_files(tmp_path)] == [[0.5]] * there
    monkeypatch.undo()
    write_token_records([{"reward": 1.0}], tmp_path, 3)
    assert pd.read_parquet(path).reward.tolist() == [1.0]
    assert token_record_files(tmp_path) == [path]


def test_a_reward_that_lacks_its_column_is_refused_before_the_model_is_loaded(tmp_path):
    def reward(completions, answer, **kwargs):
        return [0.0] * len(completions)

    with pytest.raises(ValueError, match=r"reward needs a column 'answer'; you have 'solution'"):
        build(
            DeltaGRPOTrainer,
            config(tmp_path),
            model="no such folder",
            reward_funcs=reward,
            train_dataset=Dataset.from_dict({"prompt": ["1"], "solution": ["1"]}),
        )
