"""Sampling completions with vLLM's offline engine, the back-end for models of real size.

Tensor parallelism is vLLM's own. Data parallelism is one engine a group of devices, each in a process of its own with a
share of the samples: engines of a dense model have nothing to tell each other, and vLLM refuses
`LLM(data_parallel_size=...)` in a single process.

Written against the signatures of vLLM 0.22 to 0.32; TRL 1.16 supports those up to 0.31.
"""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import Any

from ..commands import end_with_parent
from .engine_guard import descendants, guard
from .generate import Completion, Decoding, Request, load_tokenizer, within_context
from .models import ModelSource, adapter_config
from .options import Engine


# vLLM accepts these ranks only.
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VllmBackend:
    """Generates with `vllm.LLM`.

    Args:
        source: From `find_model`. An adapter is served on top of its base model.
        engine: Its dtype, vLLM's options and the longest sequence.
    """

    name = "vllm"

    def __init__(self, source: ModelSource, engine: Engine):
        from vllm import LLM

        self.tokenizer = load_tokenizer(source)
        self.lora = None
        options: dict[str, Any] = {}
        if source.base is not None:
            from vllm.lora.request import LoRARequest

            self.lora = LoRARequest("adapter", 1, source.path)
            options = {"enable_lora": True, "max_lora_rank": _lora_rank(source)}
        if source.on_hub and source.revision:
            options |= {"revision": source.revision}
        others = descendants(os.getpid())
        self.llm = LLM(
            model=source.base or source.path,
            tensor_parallel_size=engine.tensor_parallel_size,
            dtype=engine.dtype,
            gpu_memory_utilization=engine.gpu_memory_utilization,
            max_model_len=engine.max_model_len,
            # The statistics carry each request's times.
            disable_log_stats=False,
            **options,
        )
        self.guard = guard(descendants(os.getpid()) - others)

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[list[tuple[Request, Completion]]]:
        """Yields what each step of the engine finishes.

        `LLM.generate` would return when the last of thousands of long completions is done, and lose all if it is
        interrupted; calling it in portions would leave the GPU idle at the end of each. So everything is enqueued, and
        the engine is stepped here, which is what `LLM.generate` does inside.
        """
        from vllm import SamplingParams

        context = self.llm.model_config.max_model_len
        requests = within_context(requests, context, decoding.max_tokens)
        if not requests:
            return
        ids = self.llm.enqueue(
            [{"prompt_token_ids": list(request.prompt_ids)} for request in requests],
            [
                SamplingParams(
                    temperature=decoding.temperature,
                    top_p=decoding.top_p,
                    top_k=decoding.top_k,
                    max_tokens=min(decoding.max_tokens, context - len(request.prompt_ids)),
                    seed=request.seed,
                    stop=decoding.format.stop_strings or None,
                    stop_token_ids=decoding.format.end_token_ids(self.tokenizer),
                )
                for request in requests
            ],
            lora_request=self.lora,
            use_tqdm=False,
        )
        # enqueue returns the engine's ids, "7-1f3a09bc"; outputs bear the part before the dash.
        waiting = {identity.partition("-")[0]: request for identity, request in zip(ids, requests, strict=True)}
        while waiting:
            finished = [output for output in self.llm.llm_engine.step() if output.finished]
            yield [(waiting.pop(output.request_id), _completion(output)) for output in finished]

    def close(self) -> None:
        """Ends the engine's process, which this process would otherwise wait for when it ends."""
        self.llm.llm_engine.engine_core.shutdown()
        if self.guard is not None:
            self.guard.communicate()


def split_devices(devices: Sequence[str], tensor: int, data: int) -> list[list[str]]:
    """Gives each of `data` engines `tensor` of the devices.

    Raises:
        ValueError: There are too few devices.
    """
    if len(devices) < tensor * data:
        raise ValueError(
            f"tensor_parallel_size={tensor} times data_parallel_size={data} needs {tensor * data} devices, and "
            f"{len(devices)} are visible ({','.join(devices) or 'none'}). Lower one of them, or make more devices visible "
            "(on CUDA and ROCm with CUDA_VISIBLE_DEVICES)."
        )
    return [list(devices[start : start + tensor]) for start in range(0, tensor * data, tensor)]


def visible_devices() -> tuple[str, list[str]]:
    """The environment variable by which vLLM's platform is shown some of its devices, and those it is shown now.

    `CUDA_VISIBLE_DEVICES` on CUDA and ROCm; on CPUs the devices are the NUMA nodes of `CPU_VISIBLE_MEMORY_NODES`.
    """
    from vllm.platforms import current_platform

    variable = current_platform.device_control_env_var
    listed = os.environ.get(variable)
    if listed is None:
        return variable, [str(device) for device in range(current_platform.device_count())]
    return variable, [device for device in listed.split(",") if device]


def run_data_parallel(target: Callable[..., None], tensor: int, data: int, arguments: tuple) -> None:
    """Calls `target(rank, data, *arguments)` in `data` processes, each of which sees devices of its own.

    A single engine sees them all: vLLM then takes what it needs, on whatever platform.

    Raises:
        ValueError: There are too few devices.
        ChildProcessError: A process failed; the others are ended. What they finished is in the record file.
    """
    context = get_context("spawn")  # fork and CUDA do not go together
    environments: list[dict[str, str]] = [{}]
    if data > 1:
        variable, devices = visible_devices()
        environments = [{variable: ",".join(share)} for share in split_devices(devices, tensor, data)]
    processes = []
    try:
        for rank, environment in enumerate(environments):
            with _environment(environment):  # a spawned process reads it before it imports torch
                processes.append(context.Process(target=_run_rank, args=(os.getpid(), target, rank, data, *arguments)))
                processes[-1].start()
        running = {process.sentinel: process for process in processes}
        while running:
            for sentinel in wait(running):
                process = running.pop(sentinel)
                process.join()
                if process.exitcode:
                    raise ChildProcessError(
                        f"An engine's process ended with exit code {process.exitcode}; its error is above. Run the "
                        "same command again to continue from the samples that were finished."
                    )
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()


def _run_rank(parent: int, target: Callable[..., None], *arguments) -> None:
    """In the new process, which must not go on evaluating when its parent is killed."""
    end_with_parent()
    if os.getppid() == parent:  # it lived until then
        target(*arguments)


@contextmanager
def _environment(variables: dict[str, str]) -> Generator[None, None, None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _completion(output: Any) -> Completion:
    """From vLLM's RequestOutput with its one CompletionOutput."""
    (sample,) = output.outputs
    times = output.metrics
    seconds = None if times is None else times.last_token_ts - times.scheduled_ts
    return Completion(sample.text, len(sample.token_ids), sample.finish_reason == "length", seconds)


def _lora_rank(source: ModelSource) -> int:
    config = adapter_config(source.folder)
    rank = max([config["r"], *config.get("rank_pattern", {}).values()])
    for allowed in LORA_RANKS:
        if rank <= allowed:
            return allowed
    raise ValueError(f"The adapter's rank is {rank}; vLLM serves {LORA_RANKS[-1]}. Use --backend transformers.")
