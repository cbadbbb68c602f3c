"""Smaller layers out of a teacher's: what to keep, and how to make up for the rest.

Every choice here is the best rank-r or least-squares approximation of a linear map, for inputs of
a given mean and covariance. They come from running the teacher on batches; without batches, from
its weights. All of it in float64 on the CPU, where covariances can be factorised safely.

Shapes: B batch, T tokens, H hidden size, N heads, D attention hidden size (per head), V value_dim
(all heads), W = V / N, F intermediate size, I inputs of a linear map, O its outputs, J inputs kept,
R rank.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from slicewise.data.batch import Batch
from slicewise.layers import Attention, EncoderLayer, FeedForward
from slicewise.students.layers import Encoder

# Relative to the mean variance: what keeps a covariance positive definite after rounding.
_JITTER = 1e-10
# Relative to the mean variance of neurons: how strongly fitted weights are held where they were.
_RIDGE = 0.1


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of what enters a linear map.

    Attributes:
        mean_I: (I,), float64.
        covariance_II: (I, I), float64, positive definite.

    Example:
        >>> moments = Moments.centred(torch.eye(3, dtype=torch.float64))
        >>> moments.mean_I
        tensor([0., 0., 0.], dtype=torch.float64)
    """

    mean_I: Tensor
    covariance_II: Tensor

    def of(self, numbers_J: Tensor) -> Moments:
        """Of some of the inputs."""
        covariance_JJ = self.covariance_II[numbers_J][:, numbers_J]
        return Moments(self.mean_I[numbers_J], covariance_JJ)

    def about_zero(self) -> Moments:
        """Second moments in the place of the covariance: for maps that have no bias."""
        return Moments.centred(self.covariance_II + torch.outer(self.mean_I, self.mean_I))

    @classmethod
    def centred(cls, covariance_II: Tensor) -> Moments:
        """Of a mean of zero."""
        return cls(covariance_II.new_zeros(len(covariance_II)), _positive_definite(covariance_II))


class MomentSums:
    """Sums over tokens, from which moments follow.

    Args:
        size: I.

    Example:
        >>> sums = MomentSums(2)
        >>> sums.add(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        >>> sums.add(torch.tensor([[5.0, 6.0]]))
        >>> sums.mean()
        tensor([3., 2.], dtype=torch.float64)
        >>> sums.covariance().diagonal()
        tensor([2.6667, 8.0000], dtype=torch.float64)
    """

    def __init__(self, size: int) -> None:
        self.tokens = 0
        self.sum_I = torch.zeros(size, dtype=torch.float64)
        self.sum_II = torch.zeros(size, size, dtype=torch.float64)

    def add(self, x_KI: Tensor) -> None:
        """Counts K more tokens."""
        self.tokens += len(x_KI)
        self.sum_I += x_KI.sum(0).cpu().double()
        if torch.get_float32_matmul_precision() != "highest":
            # Products of 8 or 11 bits could leave a covariance that is none.
            x_KI = x_KI.cpu().double()
        # Else in the tokens' own precision: a covariance needs no more, and it is faster.
        self.sum_II += (x_KI.T @ x_KI).cpu().double()

    def mean(self) -> Tensor:
        """(I,)."""
        return self.sum_I / self.tokens

    def covariance(self) -> Tensor:
        """(I, I)."""
        mean_I = self.mean()
        return self.sum_II / self.tokens - torch.outer(mean_I, mean_I)

    def moments(self) -> Moments:
        """Mean and covariance, the latter shrunk towards its diagonal.

        With fewer tokens than inputs a sample covariance is singular, and with few more its small
        eigenvalues are chance. Shrinking (Ledoit and Wolf 2004,
        https://doi.org/10.1016/S0047-259X(03)00096-4; here by I / (I + 10 tokens): on MiniLM
        better than I + tokens, and as good as I + 100 tokens) keeps what is inferred from it
        stable, and vanishes as tokens become many.
        """
        covariance_II = self.covariance()
        size = len(covariance_II)
        shrunk_II = torch.lerp(
            covariance_II, covariance_II.diag().diag(), size / (size + 10 * self.tokens)
        )
        return Moments(self.mean(), _positive_definite(shrunk_II))


@dataclass(frozen=True)
class LayerMoments:
    """Of what enters each linear map of a layer; see `layer_moments`.

    Attributes:
        hidden: (H,): enters query, key and value.
        context: (V,): enters the attention's dense map.
        attended: (H,): enters the feed-forward block.
        neurons: (F,): enters the feed-forward block's output map.

    Example:
        >>> unit_HH, unit_FF = (torch.eye(n, dtype=torch.float64) for n in (4, 8))
        >>> moments = LayerMoments(
        ...     hidden=Moments.centred(unit_HH), context=Moments.centred(unit_HH),
        ...     attended=Moments.centred(unit_HH), neurons=Moments.centred(unit_FF))
        >>> moments.neurons.mean_I.shape
        torch.Size([8])
    """

    hidden: Moments
    context: Moments
    attended: Moments
    neurons: Moments


@torch.no_grad()
def layer_moments(encoder: Encoder, batches: Iterable[Batch]) -> list[LayerMoments]:
    """The moments in each layer of a teacher.

    Args:
        encoder: As `read_layers` makes it, on any device.
        batches: What enters it. Without any, hidden states are taken to have a mean of zero and
            a covariance of one, each token to attend to itself, and each neuron to be as large
            as its weights are long, apart from the others.

    Example:
        >>> from slicewise.students.layers import read_layers
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> below, above = layer_moments(read_layers(teacher, 2), [Batch(torch.randn(8, 16, 24))])
        >>> below.hidden.covariance_II.shape, above.neurons.mean_I.shape
        (torch.Size([24, 24]), torch.Size([32]))
    """
    device = next(encoder.parameters()).device
    # Of a layer that runs several times, over all of them.
    sums = {
        linear: MomentSums(linear.in_features)
        for layer in encoder
        for linear in _distinct_linears(layer)
    }
    with _inputs_of(*sums) as inputs:
        for batch in batches:
            mask = None if batch.attention_mask is None else batch.attention_mask.to(device)
            x_BTH = batch.hidden_states.to(device)
            for layer in encoder:
                x_BTH = layer(x_BTH, mask)
                for linear in _distinct_linears(layer):
                    sums[linear].add(counted_tokens(inputs[linear], batch))
    if not any(linear_sums.tokens for linear_sums in sums.values()):
        return [_moments_without_data(layer) for layer in encoder]
    return [
        LayerMoments(*(sums[linear].moments() for linear in _distinct_linears(layer)))
        for layer in encoder
    ]


def counted_tokens(x_BTI: Tensor, batch: Batch) -> Tensor:
    """(B, T, I) to (K, I): the tokens of the batch that are no padding.

    Example:
        >>> x_BTI = torch.randn(2, 3, 4)
        >>> mask = torch.tensor([[0.0, 0.0, 0.0], [0.0, -1e9, -1e9]])[:, None, None, :]
        >>> counted_tokens(x_BTI, Batch(x_BTI, mask)).shape
        torch.Size([4, 4])
    """
    keep_BT = batch.real_tokens()
    return x_BTI.flatten(0, 1) if keep_BT is None else x_BTI[keep_BT.to(x_BTI.device)]


@torch.no_grad()
def factorise(linear: nn.Linear, moments: Moments, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best map of a rank in the place of a linear map, as two factors and a bias.

    Best for the inputs that there are: SVD of the weight times the Cholesky factor of their
    covariance, as SVD-LLM (Wang et al. 2024, https://arxiv.org/abs/2403.07378) after ASVD (Yuan et
    al. 2023, https://arxiv.org/abs/2312.05821). The mean goes into the bias, and takes no rank.

    Args:
        linear: (I) -> (O).
        moments: Of its inputs.
        rank: R, at most the smaller of I and O.

    Returns:
        (R, I), (O, R) and (O,): `outer @ (inner @ x) + bias`.

    Example:
        >>> linear = nn.Linear(3, 2)
        >>> moments = Moments.centred(torch.eye(3, dtype=torch.float64))
        >>> inner_RI, outer_OR, bias_O = factorise(linear, moments, rank=2)
        >>> torch.allclose((outer_OR @ inner_RI).float(), linear.weight)  # Of full rank.
        True
    """
    weight_OI, bias_O = _weights(linear)
    if linear.bias is None:
        moments = moments.about_zero()
    root_II = torch.linalg.cholesky(moments.covariance_II)
    left_OR, values_R, _ = torch.linalg.svd(weight_OI @ root_II, full_matrices=False)
    # U U^T W is the whitened SVD cut at R and unwhitened again, without an inverse.
    left_OR = left_OR[:, :rank]
    inner_RI = left_OR.T @ weight_OI
    bias_O = bias_O + weight_OI @ moments.mean_I - left_OR @ (inner_RI @ moments.mean_I)
    # Each factor gets half of every singular value: both then learn at the same rate.
    scale_R = (values_R[:rank] / root_II.diagonal().mean()).sqrt().clamp_min(_JITTER)
    return inner_RI / scale_R[:, None], left_OR * scale_R, bias_O


@torch.no_grad()
def reduce_feed_forward(source: FeedForward, target: FeedForward, moments: LayerMoments) -> None:
    """Fills `target` with the neurons of `source` that matter most.

    They are the `important_neurons`. The outgoing weights of those kept, and the bias, are then
    fitted by least squares to the whole block's output, as in channel pruning (He et al. 2017,
    https://arxiv.org/abs/1707.06168).

    Args:
        source: The teacher's.
        target: With at most as many neurons; filled in place.
        moments: Of the teacher's layer.

    Example:
        >>> from slicewise.students.layers import read_layers
        >>> from slicewise.teacher import random_bert
        >>> source = read_layers(
        ...     random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32), 1)
        >>> (theirs,), (moments,) = source, layer_moments(source, [Batch(torch.randn(8, 16, 24))])
        >>> ours = FeedForward(24, 20, dropout=0.0, layer_norm_eps=1e-12)
        >>> reduce_feed_forward(theirs.feed_forward, ours, moments)
        >>> torch.equal(ours.norm.weight, theirs.feed_forward.norm.weight)
        True
    """
    target.norm.load_state_dict(source.norm.state_dict())
    kept = target.intermediate.out_features
    if kept == source.intermediate.out_features:
        for name, linear in source.named_children():
            if isinstance(linear, nn.Linear):
                _copy(target.get_submodule(name), *_weights(linear))
        return
    keep_J = important_neurons(source, moments, kept)
    for ours, theirs in ((target.intermediate, source.intermediate), (target.gate, source.gate)):
        if theirs is not None:
            weight_FH, bias_F = _weights(theirs)
            _copy(ours, weight_FH[keep_J], bias_F[keep_J])
    select_JF = torch.eye(source.intermediate.out_features, dtype=torch.float64)[keep_J]
    _copy(target.output, *_refitted(source.output, moments.neurons, select_JF))


@torch.no_grad()
def important_neurons(source: FeedForward, moments: LayerMoments, kept: int) -> Tensor:
    """Which neurons of a feed-forward block matter most.

    The importance of a neuron is the norm of its outgoing weights times the standard deviation of
    its activation: how much the block's output changes without it, as DynaBERT ranks neurons (Hou
    et al. 2020, https://arxiv.org/abs/2004.04037) by how much the loss changes. Without data the
    norm of its incoming weights stands for the deviation.

    Args:
        source: The teacher's.
        moments: Of the teacher's layer.
        kept: How many.

    Returns:
        Their numbers, ascending, (J,).
    """
    deviation_F = moments.neurons.covariance_II.diagonal().sqrt()
    importance_F = _weights(source.output)[0].norm(dim=0) * deviation_F
    keep_J: Tensor = importance_F.topk(kept).indices.sort().values
    return keep_J


@torch.no_grad()
def reduce_attention(source: Attention, target: Attention, moments: LayerMoments) -> None:
    """Fills `target` with the heads of `source` that matter most, each narrowed if need be.

    The importance of a head is the variance that it adds to the output, E|Wo c|^2 over its
    centred context c. Michel et al. (2019, https://arxiv.org/abs/1905.10650) take the gradient of
    the loss by a gate on the head; where the loss is the distance to the teacher itself that
    gradient is zero, and the variance is what the gate costs to second order. Queries and keys of
    a head are narrowed to the best rank-D approximation of its scores q.k, values to the best
    rank-W approximation of its output Wo c; the dense map is then fitted by least squares to the
    output of all heads.

    Args:
        source: The teacher's.
        target: With at most as many heads, each at most as wide; filled in place.
        moments: Of the teacher's layer.

    Example:
        >>> from slicewise.students.layers import read_layers
        >>> from slicewise.teacher import random_bert
        >>> source = read_layers(
        ...     random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32), 1)
        >>> (theirs,), (moments,) = source, layer_moments(source, [Batch(torch.randn(8, 16, 24))])
        >>> ours = Attention(  # One head of two, six dimensions of twelve.
        ...     24, 1, 6, value_dim=6, dropout=0.0, layer_norm_eps=1e-12)
        >>> reduce_attention(theirs.attention, ours, moments)
        >>> torch.equal(ours.norm.weight, theirs.attention.norm.weight)
        True
    """
    target.norm.load_state_dict(source.norm.state_dict())
    N = source.num_attention_heads
    query_NDH, query_ND = _by_head(source.query, N)
    key_NDH, _ = _by_head(source.key, N)
    value_NWH, value_NW = _by_head(source.value, source.num_attention_heads)
    weight_HV, _ = _weights(source.dense)
    whole_size = value_NW.shape[1]
    covariance_VV = moments.context.covariance_II
    # trace(Wo C Wo^T), head by head, from the diagonal blocks of C.
    gram_VV = weight_HV.T @ weight_HV
    spans = [slice(n * whole_size, (n + 1) * whole_size) for n in range(len(value_NW))]
    importance_N = torch.stack([(gram_VV[s, s] * covariance_VV[s, s]).sum() for s in spans])

    heads = target.num_attention_heads
    head_size = target.query.out_features // heads
    value_size = target.value.out_features // heads
    keep = sorted(importance_N.topk(heads).indices.tolist())
    # Of each kept head, what is done to its queries and to its keys.
    query_maps, key_maps, values = [], [], []
    map_JV = torch.zeros(target.value.out_features, len(covariance_VV), dtype=torch.float64)
    mean_H, covariance_HH = moments.hidden.mean_I, moments.hidden.covariance_II
    # The student divides scores by the root of its own head size.
    scale = (head_size / query_ND.shape[1]) ** 0.25
    for j, n in enumerate(keep):
        query_DH, query_D = query_NDH[n], query_ND[n]
        key_DH = key_NDH[n]
        map_query = map_key = torch.eye(len(query_D), dtype=torch.float64)
        if head_size < len(query_D):
            # Of the keys only deviations from their mean: what is the same for all of them
            # leaves the softmax as it was.
            mean_D = query_DH @ mean_H + query_D
            map_query, map_key = _balanced(
                query_DH @ covariance_HH @ query_DH.T + torch.outer(mean_D, mean_D),
                key_DH @ covariance_HH @ key_DH.T,
                head_size,
            )
            map_query, map_key = scale * map_query, scale * map_key
        query_maps.append(map_query)
        key_maps.append(map_key)
        if value_size < whole_size:
            span = spans[n]
            _, map_WW = _balanced(gram_VV[span, span], covariance_VV[span, span], value_size)
        else:
            map_WW = torch.eye(whole_size, dtype=torch.float64)
        values.append((map_WW @ value_NWH[n], map_WW @ value_NW[n]))
        map_JV[j * value_size : (j + 1) * value_size, spans[n]] = map_WW
    for names, maps in ((source.query_side, query_maps), (source.key_side, key_maps)):
        for name in names:
            weight_NDH, bias_ND = _by_head(source.get_submodule(name), N)
            weight = torch.cat([m @ weight_NDH[n] for m, n in zip(maps, keep, strict=True)])
            bias = torch.cat([m @ bias_ND[n] for m, n in zip(maps, keep, strict=True)])
            _copy(target.get_submodule(name), weight, bias)
    _copy(target.value, torch.cat([w for w, _ in values]), torch.cat([b for _, b in values]))
    target.take_besides(source, keep)
    if map_JV.shape[0] == map_JV.shape[1]:
        _copy(target.dense, *_weights(source.dense))
    else:
        _copy(target.dense, *_refitted(source.dense, moments.context, map_JV))


@torch.no_grad()
def fit_to_slice(student: nn.Module, last: str, source: Encoder, batches: list[Batch]) -> None:
    """Fits the output map of a student's last block to what the whole slice returns.

    A student with fewer layers than the slice is, so far, the beginning of the slice: this makes
    up for the layers that are missing as far as a linear map can. Up to a scale c, the last layer
    norm of the teacher sees z, normalised; that of the student sees u + W a, of its residual u
    and its neurons a. W and c are those of the least squares of z - c (u + W a). As in
    `reduce_feed_forward` the approach is that of channel pruning (He et al. 2017,
    https://arxiv.org/abs/1707.06168), which fits each block to the outputs of the original.

    Args:
        student: Ends in a `FeedForward` block; filled in place.
        last: The name of that block in the student.
        source: All layers of the teacher, as `read_layers` makes them.
        batches: What enters the slice; without any, nothing is fitted.

    Example:
        >>> from slicewise.losses import l1_loss
        >>> from slicewise.students.bert_layer import BertLayer
        >>> from slicewise.students.layers import read_layers
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> for weight in teacher.parameters():  # Small as they are, its layers hardly differ.
        ...     _ = weight.add_(torch.randn_like(weight), alpha=0.3)
        >>> student = BertLayer(**{**BertLayer.sizes_from(teacher), "num_layers": 1})
        >>> student.start_from(teacher)  # Without batches: the first layer as it is.
        >>> x_BTH = torch.randn(32, 16, 24)
        >>> before = l1_loss(student(x_BTH), teacher(x_BTH))
        >>> last = "encoder.layers.0.feed_forward"
        >>> fit_to_slice(student, last, read_layers(teacher, 2), [Batch(x_BTH)])
        >>> bool(l1_loss(student(x_BTH), teacher(x_BTH)) < before)
        True
    """
    if not batches:
        return
    weight = next(source.parameters())
    device = weight.device
    # A copy, so that the student stays on its device, in its mode and precision.
    running = copy.deepcopy(student).to(weight).eval()
    block: FeedForward = running.get_submodule(last)  # type: ignore[assignment]
    final = list(source)[-1].feed_forward
    norm: Any = final.norm
    # Of the block's input: what it adds to.
    taps = (block.output, block, norm)
    F, H = block.output.in_features, block.output.out_features
    sums = MomentSums(F + 2 * H)
    with _inputs_of(*taps) as inputs:
        for batch in batches:
            mask = None if batch.attention_mask is None else batch.attention_mask.to(device)
            x_BTH = batch.hidden_states.to(device)
            running(x_BTH, mask)
            y_BTH = source(x_BTH, mask)
            a_BTF, u_BTH, sum_BTH = (inputs[tap] for tap in taps)
            z_BTH = y_BTH if final.norm_first else layer_norm(sum_BTH, (H,), eps=norm.eps)
            sums.add(counted_tokens(torch.cat([a_BTF, u_BTH, z_BTH], dim=-1), batch))
    moments = sums.moments()
    if block.output.bias is None:
        moments = moments.about_zero()
    a, u, z = slice(0, F), slice(F, F + H), slice(F + H, None)
    mean, covariance = moments.mean_I, moments.covariance_II
    root_FF = torch.linalg.cholesky(covariance[a, a])
    # Of u and of z, the part that the neurons explain.
    explained_FH2 = torch.cholesky_solve(covariance[a, F:], root_FF)
    u_FH, z_FH = explained_FH2[:, :H], explained_FH2[:, H:]
    left_uu = covariance[u, u].diagonal() - (covariance[u, a] * u_FH.T).sum(1)
    left_uz = covariance[u, z].diagonal() - (covariance[u, a] * z_FH.T).sum(1)
    # A norm undoes any scale; without one after the sum there is none to choose.
    scale = left_uz.sum() / left_uu.sum() if not final.norm_first else torch.ones(())
    if not scale > 0:
        # The residual says nothing about the slice's output, and cannot be turned round.
        return
    weight_HF = (z_FH / scale - u_FH).T
    fitted: FeedForward = student.get_submodule(last)  # type: ignore[assignment]
    _copy(fitted.output, weight_HF, mean[z] / scale - mean[u] - weight_HF @ mean[a])
    if not final.norm_first:
        fitted.norm.load_state_dict(norm.state_dict())


@torch.no_grad()
def output_moments(
    layer: EncoderLayer, inputs: Iterable[Batch], followed: EncoderLayer, entering: Iterable[Batch]
) -> Moments:
    """What `fit_output` needs to know of a layer and of the original's layer that it follows.

    Args:
        layer: In eval mode.
        inputs: What enters it; at least one token.
        followed: The original's layer whose output it is to return.
        entering: What enters that, for the same tokens.

    Returns:
        Of its neurons, and beside them of what they are to add to its residual, (F + H,).
    """
    block = layer.feed_forward
    sums = MomentSums(block.output.in_features + block.output.out_features)
    for batch, original in zip(inputs, entering, strict=True):
        u_BTH = layer.attention(batch.hidden_states, batch.attention_mask)
        a_BTF = block.neurons(u_BTH)
        theirs_BTH = followed.attention(original.hidden_states, original.attention_mask)
        sum_BTH = theirs_BTH + _added(followed.feed_forward, theirs_BTH)
        sums.add(counted_tokens(torch.cat([a_BTF, sum_BTH - u_BTH], dim=-1), batch))
    # As they are: shrunk, neurons of a large variance would pass for less than they do.
    return Moments(sums.mean(), _positive_definite(sums.covariance()))


@torch.no_grad()
def fit_output(
    block: FeedForward, norm: nn.Module, moments: Moments, ridge: float = _RIDGE
) -> None:
    """Fits the output map of a feed-forward block to what the original's last norm gets.

    What narrower layers before it get wrong, or layers that are missing after it, it makes up for
    as far as a linear map can. From layer to layer, each on what those before it really return,
    this is the asymmetric reconstruction of He et al. (2017, https://arxiv.org/abs/1707.06168).
    Ridge regression towards the weights that it has: the nearest weights that will do, not large
    ones that cancel each other, which the first steps of any training would tear apart.

    Args:
        block: Its output map is filled in place, and its norm.
        norm: The layer norm of the original that is to come out.
        moments: As `output_moments` returns them, for the neurons that the block has.
        ridge: Added to the neurons' variance, as a share of its mean. Measured on MiniLM, a third
            of its parameters left: 0.1 is better than 0.01 and 1.
    """
    F = block.output.in_features
    if block.output.bias is None:
        moments = moments.about_zero()
    mean, covariance = moments.mean_I, moments.covariance_II
    weight_HF, _ = _weights(block.output)
    neurons_FF = covariance[:F, :F]
    ridge_FF = ridge * neurons_FF.diagonal().mean() * torch.eye(F, dtype=neurons_FF.dtype)
    root_FF = torch.linalg.cholesky(_positive_definite(neurons_FF + ridge_FF))
    wanted_FH = covariance[:F, F:] + ridge_FF @ weight_HF.T
    weight_HF = torch.cholesky_solve(wanted_FH, root_FF).T
    _copy(block.output, weight_HF, mean[F:] - weight_HF @ mean[:F])
    if not block.norm_first:
        block.norm.load_state_dict(norm.state_dict())


def _added(block: FeedForward, x_BTH: Tensor) -> Tensor:
    """What a block adds to its residual, before its norm."""
    added_BTH: Tensor = block.output(block.neurons(x_BTH))
    return added_BTH


@contextmanager
def _inputs_of(*modules: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """What last entered each module."""
    inputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs[module] = arguments[0]

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _distinct_linears(layer: EncoderLayer) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
    """Those with inputs of their own, in the order of `LayerMoments`.

    The values' for that of the hidden states: an architecture may put positions through the others.
    """
    attention, feed_forward = layer.attention, layer.feed_forward
    return attention.value, attention.dense, feed_forward.intermediate, feed_forward.output


def _moments_without_data(layer: EncoderLayer) -> LayerMoments:
    value_VH, _ = _weights(layer.attention.value)
    incoming_FH, _ = _weights(layer.feed_forward.intermediate)
    variance_F = incoming_FH.square().sum(1)
    if layer.feed_forward.gate is not None:
        variance_F = variance_F * _weights(layer.feed_forward.gate)[0].square().sum(1)
    unit_HH = torch.eye(value_VH.shape[1], dtype=torch.float64)
    return LayerMoments(
        Moments.centred(unit_HH),
        Moments.centred(value_VH @ value_VH.T),
        Moments.centred(unit_HH),
        Moments.centred(variance_F.diag()),
    )


def _balanced(left_DD: Tensor, right_DD: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Maps (R, D) of a pair of vectors that keep most of its scalar product in R dimensions.

    As balanced truncation does (Moore 1981, https://doi.org/10.1109/TAC.1981.1102568): the
    products of the mapped vectors are the best rank-R approximation of the products.

    Args:
        left_DD: Second moment of the one vector.
        right_DD: Of the other.
        rank: R.
    """
    left_root_DD = torch.linalg.cholesky(_positive_definite(left_DD)).T
    right_root_DD = torch.linalg.cholesky(_positive_definite(right_DD)).T
    U_DD, values_D, V_DD = torch.linalg.svd(left_root_DD @ right_root_DD.T)
    root_R = values_D[:rank].sqrt().clamp_min(_JITTER)[:, None]
    return V_DD[:rank] @ right_root_DD / root_R, U_DD.T[:rank] @ left_root_DD / root_R


def _refitted(dense: nn.Linear, moments: Moments, map_JI: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (O, J) and bias (O,) that make the most of inputs of which only a map is left.

    Least squares: the covariance of the output with what is left, times the inverse covariance of
    what is left.
    """
    weight_OI, bias_O = _weights(dense)
    if dense.bias is None:
        moments = moments.about_zero()
    cross_IJ = moments.covariance_II @ map_JI.T
    root_JJ = torch.linalg.cholesky(_positive_definite(map_JI @ cross_IJ))
    weight_OJ = torch.cholesky_solve((weight_OI @ cross_IJ).T, root_JJ).T
    return weight_OJ, bias_O + (weight_OI - weight_OJ @ map_JI) @ moments.mean_I


def _positive_definite(covariance_II: Tensor) -> Tensor:
    floor = (covariance_II.diagonal().mean() * _JITTER).clamp_min(1e-30)
    unit_II = torch.eye(len(covariance_II), dtype=covariance_II.dtype)
    symmetric_II = (covariance_II + covariance_II.T) / 2
    lifted_II = symmetric_II + floor * unit_II
    if torch.linalg.cholesky_ex(lifted_II).info == 0:
        return lifted_II
    # Of so few tokens that rounding is larger than how much they differ.
    least = torch.linalg.eigvalsh(symmetric_II)[0]
    lift: Tensor = (2 * least.abs() + floor) * unit_II
    return symmetric_II + lift


def _weights(linear: Any) -> tuple[Tensor, Tensor]:
    """Weight (O, I) and bias (O,) of a linear map; zero where it has none."""
    weight_OI: Tensor = linear.weight.cpu().double()
    if linear.bias is None:
        return weight_OI, weight_OI.new_zeros(len(weight_OI))
    return weight_OI, linear.bias.cpu().double()


def _by_head(linear: nn.Module, heads: int) -> tuple[Tensor, Tensor]:
    """Weight (N, D, H) and bias (N, D) of a projection to all heads."""
    weight, bias = _weights(linear)
    return weight.view(heads, -1, weight.shape[1]), bias.view(heads, -1)


def _copy(module: Any, weight: Tensor, bias: Tensor) -> None:
    module.weight.copy_(weight)
    if module.bias is not None:
        module.bias.copy_(bias)
