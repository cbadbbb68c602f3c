"""The teacher's layers with every linear map cut to a rank.

Shapes: B batch, T tokens, H hidden size, R rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from slicewise.data.batch import Batch
from slicewise.errors import ArgumentError
from slicewise.layers import EncoderLayer
from slicewise.students.base import Student
from slicewise.students.keep import Keep, choices, take_best
from slicewise.students.layers import (
    Encoder,
    Geometry,
    check_architecture,
    check_head_size,
    check_sizes,
    fitted,
    read_layers,
    take_kinds,
)
from slicewise.students.reduction import LayerMoments, Moments, factorise, layer_moments
from slicewise.students.sizes import check_hidden_size, check_same

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice


class LowRankLinear(nn.Module):
    """A linear map in two factors, with one bias or none.

    Args:
        in_features: Of the input.
        out_features: Of the output.
        rank: R, the size between the factors.
        bias: Whether it has one.

    Example:
        >>> from slicewise.cost import count_parameters
        >>> count_parameters(LowRankLinear(in_features=24, out_features=32, rank=4))
        256
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        self.inner = nn.Linear(in_features, rank, bias=False)
        self.outer = nn.Linear(rank, out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        y: Tensor = self.outer(self.inner(x))
        return y


class LowRank(Student):
    """Layers of the teacher's architecture whose linear maps each go through R dimensions.

    A map of I inputs and O outputs has R * (I + O) weights in the place of I * O. Biases and
    layer norms stay. How the factors are found is said, with the papers, at `start_from`.

    Args:
        input_dim: H, the hidden size of the teacher.
        rank: R, at most `input_dim` and `intermediate_size`; beyond them it could add nothing.
        num_layers: How many layers; 1 unless given.
        num_attention_heads: They divide `input_dim`; 12, as BERT-base and MiniLM have, unless
            given.
        intermediate_size: Neurons of each feed-forward block; 1536, MiniLM's, unless given.
        dropout: Probability, on the attention probabilities and before the layer norms; 0 unless
            given: the teacher, in eval mode, drops nothing either.
        layer_norm_eps: Added to the variance in the layer norms; 1e-12 as in BERT.
        hidden_act: The activation, by its name in transformers; `gelu` as in BERT.
        architecture: What else its layers are, as JSON values: an architecture's name in
            transformers and a few words on each layer (`slicewise.students.layers.described`);
            of BERT's shape unless given.

    Raises:
        ArgumentError: A size is not positive, `rank` is too large, the heads do not divide
            `input_dim`, `dropout` is not a probability below 1, or there is no such activation.

    Example:
        >>> from slicewise.cost import count_parameters
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> student = LowRank(**{**LowRank.sizes_from(teacher), "rank": 6})
        >>> student.start_from(teacher, [Batch(torch.randn(8, 16, 24))])
        >>> count_parameters(student), count_parameters(teacher)
        (4144, 8176)
        >>> whole = LowRank(**LowRank.sizes_from(teacher))
        >>> whole.start_from(teacher)
        >>> x_BTH = torch.randn(2, 5, 24)
        >>> torch.allclose(whole(x_BTH), teacher(x_BTH), atol=1e-5)
        True
    """

    initialisations = ("random", "teacher")
    reproduces_teacher = True

    def __init__(
        self,
        input_dim: int,
        rank: int,
        num_layers: int = 1,
        num_attention_heads: int = 12,
        intermediate_size: int = 1536,
        dropout: float = 0.0,
        layer_norm_eps: float = 1e-12,
        hidden_act: str = "gelu",
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "input_dim": input_dim,
            "rank": rank,
            "num_layers": num_layers,
            "num_attention_heads": num_attention_heads,
            "intermediate_size": intermediate_size,
            "dropout": dropout,
            "layer_norm_eps": layer_norm_eps,
            "hidden_act": hidden_act,
        }
        check_sizes(self.config)
        check_head_size(input_dim, num_attention_heads)
        largest = _largest_rank(input_dim, intermediate_size)
        if not 1 <= rank <= largest:
            raise ArgumentError("rank", rank, f"1 to {largest}, the rank of a whole map")
        self.config["architecture"] = fitted(architecture, num_layers)
        self.encoder = self._new_encoder()

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        y_BTH: Tensor = self.encoder(hidden_states, attention_mask)
        return y_BTH

    def _new_encoder(self) -> Encoder:
        input_dim, rank = self.config["input_dim"], self.config["rank"]
        sizes = {
            "attention_hidden_size": input_dim // self.config["num_attention_heads"],
            "value_dim": input_dim,
        }
        return Encoder(
            {**self.config, **sizes},
            lambda inputs, outputs, bias=True: LowRankLinear(inputs, outputs, rank, bias),
        )

    @classmethod
    def sizes_from(cls, teacher: TeacherSlice) -> dict[str, Any]:
        sizes = Geometry.of(teacher).sizes("attention_hidden_size")
        sizes["rank"] = _largest_rank(sizes["input_dim"], sizes["intermediate_size"])
        return sizes

    @torch.no_grad()
    def start_from(
        self, teacher: TeacherSlice, batches: Iterable[Batch] = (), keep: Keep = "first"
    ) -> None:
        """Factorises `num_layers` of the teacher's layers.

        Each map is cut where its outputs change least for the inputs that it sees: see
        `slicewise.students.reduction.factorise` (SVD-LLM, ASVD). A student of full rank is the
        teacher.

        Args:
            teacher: Of an architecture that has an adapter, and of this student's sizes.
            batches: What enters the slice.
            keep: Which layers: `first`, `last`, a list of them, or `auto`, as in `BertLayer`.

        Raises:
            ArgumentError: A size is not the teacher's, or there are no such layers to keep.
            SlicewiseError: No layer of ours computes what the teacher's layers do.
        """
        num_layers = self.config["num_layers"]
        read_layers(teacher, num_layers)
        geometry = Geometry.of(teacher)
        check_hidden_size(self, teacher)
        names = ("num_attention_heads", "intermediate_size")
        check_same(self, {name: getattr(geometry, name) for name in names})
        check_architecture(self, geometry)

        batches = list(batches)
        tried = choices(keep, num_layers, geometry.num_layers)
        source = read_layers(teacher, 1 + max(layers[-1] for layers in tried))
        moments = layer_moments(source, batches)

        def take(layers: tuple[int, ...]) -> None:
            take_kinds(self, geometry, layers)
            for ours, layer in zip(self.encoder, layers, strict=True):
                self._factorise(list(source)[layer], ours, moments[layer])

        take_best(self, teacher, batches, tried, take)

    def _factorise(self, theirs: EncoderLayer, ours: EncoderLayer, seen: LayerMoments) -> None:
        inputs: dict[str, Moments] = {
            "attention.query": seen.hidden,
            "attention.key": seen.hidden,
            "attention.value": seen.hidden,
            "attention.dense": seen.context,
            "feed_forward.intermediate": seen.attended,
            "feed_forward.output": seen.neurons,
        }
        if theirs.feed_forward.gate is not None:
            inputs["feed_forward.gate"] = seen.attended
        for name, moment in inputs.items():
            linear: Any = theirs.get_submodule(name)
            ours_linear: Any = ours.get_submodule(name)
            inner_RI, outer_OR, bias_O = factorise(linear, moment, self.config["rank"])
            ours_linear.inner.weight.copy_(inner_RI)
            ours_linear.outer.weight.copy_(outer_OR)
            if linear.bias is not None:
                ours_linear.outer.bias.copy_(bias_O)
        for name in ("attention.norm", "feed_forward.norm"):
            ours.get_submodule(name).load_state_dict(theirs.get_submodule(name).state_dict())
        sides = theirs.attention.query_side[1:] + theirs.attention.key_side[1:]
        for name in sides:
            part = theirs.attention.get_submodule(name)
            ours.attention.get_submodule(name).load_state_dict(part.state_dict())
        ours.attention.take_besides(theirs.attention, [*range(self.config["num_attention_heads"])])


def _largest_rank(input_dim: int, intermediate_size: int) -> int:
    """Beyond it a map to or from the neurons would gain nothing."""
    return min(input_dim, intermediate_size)
