"""What a module costs.

A module here maps hidden states (B, T, H) to hidden states, as students and teachers do.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from slicewise.arguments import check_integers
from slicewise.cuda_graph import Captured


def count_parameters(module: nn.Module) -> int:
    """The number of parameters, frozen ones included, shared ones once.

    Example:
        >>> count_parameters(nn.Linear(4, 3))  # 4 x 3 weights and 3 biases
        15
    """
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(module: nn.Module, batch_size: int, seq_length: int, hidden_size: int) -> int:
    """The floating-point operations of one forward pass, as torch counts them.

    Those of matrix products, attention's included: a multiplication and an addition are two.
    Activations, softmax and layer norms are not counted; they are a few per cent. Nothing is
    computed: only shapes are followed.

    Args:
        module: (B, T, H) -> (B, T, H).
        batch_size: B.
        seq_length: T.
        hidden_size: H.

    Raises:
        ArgumentError: A size is not positive.

    Example:
        >>> count_flops(nn.Linear(4, 4), batch_size=1, seq_length=8, hidden_size=4)  # 2 * 8 * 4 * 4
        256
    """
    check_integers(1, batch_size=batch_size, seq_length=seq_length, hidden_size=hidden_size)
    shapes_only = copy.deepcopy(module).to("meta")
    parameter = next(module.parameters(), None)
    x_BTH = torch.empty(
        batch_size,
        seq_length,
        hidden_size,
        device="meta",
        dtype=None if parameter is None else parameter.dtype,
    )
    counter = FlopCounterMode(display=False)
    # Only as plain matrix products is attention counted on every device alike.
    with _evaluating(shapes_only), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        shapes_only(x_BTH)
    return int(counter.get_total_flops())


def latency_ms(
    module: nn.Module,
    hidden_size: int,
    seq_length: int = 128,
    batch_size: int = 1,
    runs: int = 20,
    warm_up_runs: int = 5,
) -> float:
    """The median time of one forward pass, in milliseconds.

    In eval mode, without gradients, on the module's device, in its precision and with as many
    threads as torch has now. A batch of one, the default, is what a user of the model waits for.
    A GPU runs it as a CUDA graph, where it can: launched kernel by kernel, a small module's time is
    that of launching, and hardly depends on its size.

    Args:
        module: (B, T, H) -> (B, T, H).
        hidden_size: H.
        seq_length: T; 128, which is what MiniLM and its like were trained on.
        batch_size: B; 1 unless given.
        runs: How many passes the median is taken of; 20 unless given.
        warm_up_runs: Passes before them, in which memory is taken and kernels are chosen; 5 unless
            given, on a GPU at least 2, in which its graph is recorded.

    Raises:
        ArgumentError: A size or `runs` is not positive, or `warm_up_runs` is negative.

    Example:
        >>> latency_ms(nn.Linear(8, 8), hidden_size=8, seq_length=4) > 0
        True
    """
    check_integers(
        1, batch_size=batch_size, seq_length=seq_length, hidden_size=hidden_size, runs=runs
    )
    check_integers(0, warm_up_runs=warm_up_runs)
    parameter = next(module.parameters(), torch.empty(0))
    x_BTH = torch.randn(
        batch_size, seq_length, hidden_size, device=parameter.device, dtype=parameter.dtype
    )
    forward = Captured(torch.no_grad()(lambda x_BTH: (module(x_BTH),)), "a forward pass", warm_up=1)
    if x_BTH.is_cuda:
        warm_up_runs = max(warm_up_runs, 2)
    with _evaluating(module), torch.no_grad():
        for _ in range(warm_up_runs):
            forward(x_BTH)
        return statistics.median(_milliseconds(forward, x_BTH) for _ in range(runs))


def _milliseconds(forward: Captured, x_BTH: Tensor) -> float:
    # An accelerator returns before it is done.
    on_accelerator = x_BTH.device.type != "cpu"
    if on_accelerator:
        torch.accelerator.synchronize(x_BTH.device)
    started = time.perf_counter()
    forward(x_BTH)
    if on_accelerator:
        torch.accelerator.synchronize(x_BTH.device)
    return (time.perf_counter() - started) * 1000


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode, and each part back in its own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
