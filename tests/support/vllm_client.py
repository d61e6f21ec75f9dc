"""A stand-in for TRL's HTTP client of a vLLM server, and for nothing else.

TRL's weight synchronisation, its gathering and handing out of prompts and completions, and its importance sampling are
the real ones. Where the client would talk to a server, this one runs its own copy of the model.
"""

import torch
import trl.generation.vllm_generation as vllm_generation
from transformers import PreTrainedModel


class StandInClient:
    """`noise` is added to synchronised weights, as the numerics of another engine would differ, but larger."""

    def __init__(self, model: PreTrainedModel, noise: float = 0.0):
        self.model, self.noise = model.eval(), noise
        # As on a server, what is sampled does not depend on the trainer's random state
        self.generator = torch.Generator().manual_seed(0)
        self.syncs = 0

    def check_server(self, *args, **kwargs):
        pass

    def init_communicator(self, *args, **kwargs):
        pass

    def close_communicator(self):
        pass

    def reset_prefix_cache(self):
        pass

    def get_server_info(self):
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def update_named_params(self, metadata, parameters):
        own = dict(self.model.named_parameters())
        received = set()
        for (name, _, shape), (same_name, parameter) in zip(metadata, parameters, strict=True):
            assert name == same_name
            assert list(parameter.shape) == list(shape)
            own[name].data.copy_(parameter + self.noise * torch.randn(parameter.shape, generator=self.generator))
            received.add(name)
        assert received == own.keys()
        self.syncs += 1

    @torch.no_grad()
    def generate(self, prompts, n, temperature, max_tokens, **kwargs):
        """Sample `n` completions for each prompt, one after the other, with the log-probability of each token."""
        eos = self.model.config.eos_token_id
        completions, log_probs = [], []
        for prompt in prompts:
            for _ in range(n):
                ids, chosen = list(prompt), []
                while len(chosen) < max_tokens and (not chosen or ids[-1] != eos):
                    logits = self.model(torch.tensor([ids])).logits[0, -1].float() / temperature
                    token = torch.multinomial(logits.softmax(-1), 1, generator=self.generator).item()
                    ids.append(token)
                    chosen.append([logits.log_softmax(-1)[token].item()])
                completions.append(ids[len(prompt) :])
                log_probs.append(chosen)
        return {
            "prompt_ids": [list(prompt) for prompt in prompts],
            "completion_ids": completions,
            "logprobs": log_probs,
            "logprob_token_ids": [[[token] for token in completion] for completion in completions],
        }


def install(client: StandInClient, monkeypatch=None) -> None:
    """Let TRL believe that vLLM is there, and hand it `client`."""
    put = monkeypatch.setattr if monkeypatch else setattr
    put(vllm_generation, "VLLMClient", lambda *args, **kwargs: client)
    put(vllm_generation, "is_vllm_available", lambda *args, **kwargs: True)
