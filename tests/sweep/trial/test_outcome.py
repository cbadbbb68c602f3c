"""How a trial ends, by what it raised."""

from __future__ import annotations

import pytest
import torch

from sweep.trial.outcome import Outcome, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError("no"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        # Torch's on a CPU, in its words: see test_side_by_side.py for the real one.
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you ..."), True),
        # What CUDA is asked for beside torch's allocator: a graph, a context, a handle.
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("the student is tired"), False),
        (KeyError("CUDA error: out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    assert Outcome.of(error).reason.startswith("out of memory: ") is expected


def test_what_cuda_refuses_is_told_in_a_line() -> None:
    said = "CUDA error: an illegal memory access was encountered"
    error = torch.AcceleratorError(f"{said}\nCompile with `TORCH_USE_CUDA_DSA` to enable ...")
    assert Outcome.of(error).reason == f"AcceleratorError: {said}"
