"""The two ways in which the algorithm reads its features, a bounded number of rows at a time.

Symbols: N tokens, H feature size, R weights of a token. Torch only.
"""

from collections.abc import Iterator

import torch


# Elements of one float32 chunk: small enough on a CPU to stay in its cache between the cast and the product, large enough
# on an accelerator that launching kernels costs nothing against reading.
CPU_CHUNK_ELEMENTS = 2**20
ACCELERATOR_CHUNK_ELEMENTS = 2**25

# A product of a chunk with two rows or one vector runs on a single CPU thread; as a batch of this many it runs on all.
CPU_BATCH = 16


def chunks(features: torch.Tensor, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (slice, rows on the device in the accumulation dtype), a bounded number of rows at a time.

    What is yielded is valid until the next chunk is asked for.
    """
    elements = CPU_CHUNK_ELEMENTS if device.type == "cpu" else ACCELERATOR_CHUNK_ELEMENTS
    step = max(CPU_BATCH, elements // max(1, features.shape[1]) // CPU_BATCH * CPU_BATCH)
    in_place = features.device == device and features.dtype == dtype
    # One buffer for all chunks: fresh memory for each would cost more in page faults than the arithmetic
    buffer = None if in_place else torch.empty(min(step, len(features)), features.shape[1], dtype=dtype, device=device)
    for start in range(0, len(features), step):
        rows = features[start : start + step].detach()
        yield (
            slice(start, start + step),
            rows if buffer is None else buffer[: len(rows)].copy_(rows, non_blocking=True),
        )


def weighted_sums(features: torch.Tensor, weights: torch.Tensor, precise: torch.dtype) -> torch.Tensor:
    """Σ_n weights[r, n] features[n], shape (R, H): one sweep."""
    total = weights.new_zeros(len(weights), features.shape[1], dtype=precise)
    for part, chunk in chunks(features, weights.device, weights.dtype):
        weight = weights[:, part]
        if chunk.device.type == "cpu" and len(chunk) % CPU_BATCH == 0:
            weight, chunk = weight.unflatten(1, (CPU_BATCH, -1)).transpose(0, 1), chunk.unflatten(0, (CPU_BATCH, -1))
            total += (weight @ chunk).sum(0)
        else:
            total += weight @ chunk
    return total


def projections(features: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """features[n] · direction, shape (N,): one sweep."""
    dots = direction.new_empty(len(features))
    dot = torch.linalg.vecdot if direction.device.type == "cpu" else torch.mv
    for part, chunk in chunks(features, direction.device, direction.dtype):
        dots[part] = dot(chunk, direction)
    return dots
