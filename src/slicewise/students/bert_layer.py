"""Encoder layers with sizes of their own: a teacher's layers, pruned.

Shapes: B batch, T tokens, H hidden size, N heads, D attention hidden size (per head), V value_dim
(all heads), F intermediate size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from slicewise.arguments import check_integers
from slicewise.data.batch import Batch
from slicewise.students.base import Student
from slicewise.students.keep import Keep, choices, take_best
from slicewise.students.layers import (
    Encoder,
    Geometry,
    check_architecture,
    check_sizes,
    fitted,
    read_layers,
    take_kinds,
)
from slicewise.students.reduction import (
    fit_to_slice,
    layer_moments,
    reduce_attention,
    reduce_feed_forward,
)
from slicewise.students.sizes import check_at_most, check_hidden_size, check_same

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice


class BertLayer(Student):
    """One or more layers of the teacher's architecture, BERT's unless told otherwise.

    BERT: Devlin et al. 2019, https://arxiv.org/abs/1810.04805.

    Args:
        input_dim: H, the hidden size of the teacher.
        num_layers: How many layers; 1 unless given, in the place of a slice of several.
        num_attention_heads: N; 12 unless given, and D is 32 and F 1536: MiniLM's, so that with
            `input_dim=384` a layer is one of MiniLM's size.
        attention_hidden_size: D, the size of a query or a key in each head.
        value_dim: V, the size of the values of all heads together; N * D, as in BERT, unless
            given. It must divide by `num_attention_heads`.
        intermediate_size: F, the neurons of each feed-forward block.
        dropout: Probability, on the attention probabilities and before the layer norms; 0 unless
            given: the teacher, in eval mode, drops nothing either.
        layer_norm_eps: Added to the variance in the layer norms; 1e-12 as in BERT.
        hidden_act: The activation, by its name in transformers; `gelu` as in BERT.
        architecture: What else its layers are, as JSON values: an architecture's name in
            transformers and a few words on each layer (`slicewise.students.layers.described`);
            of BERT's shape unless given.

    Raises:
        ArgumentError: A size is not positive, the heads do not divide `value_dim`, `dropout` is
            not a probability below 1, or there is no such activation.

    Example:
        A layer of 20 neurons out of two of 32, and one that keeps all there is:

        >>> import torch
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> sizes = BertLayer.sizes_from(teacher)
        >>> student = BertLayer(**{**sizes, "num_layers": 1, "intermediate_size": 20})
        >>> student.start_from(teacher, [Batch(torch.randn(8, 16, 24))])
        >>> whole = BertLayer(**sizes)
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
        num_layers: int = 1,
        num_attention_heads: int = 12,
        attention_hidden_size: int = 32,
        value_dim: int | None = None,
        intermediate_size: int = 1536,
        dropout: float = 0.0,
        layer_norm_eps: float = 1e-12,
        hidden_act: str = "gelu",
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_integers(
            1, num_attention_heads=num_attention_heads, attention_hidden_size=attention_hidden_size
        )
        if value_dim is None:
            value_dim = num_attention_heads * attention_hidden_size
        self.config = {
            "input_dim": input_dim,
            "num_layers": num_layers,
            "num_attention_heads": num_attention_heads,
            "attention_hidden_size": attention_hidden_size,
            "value_dim": value_dim,
            "intermediate_size": intermediate_size,
            "dropout": dropout,
            "layer_norm_eps": layer_norm_eps,
            "hidden_act": hidden_act,
        }
        check_sizes(self.config)
        self.config["architecture"] = fitted(architecture, num_layers)
        self.encoder = Encoder(self.config)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        y_BTH: Tensor = self.encoder(hidden_states, attention_mask)
        return y_BTH

    @classmethod
    def sizes_from(cls, teacher: TeacherSlice) -> dict[str, Any]:
        return Geometry.of(teacher).sizes()

    def start_from(
        self, teacher: TeacherSlice, batches: Iterable[Batch] = (), keep: Keep = "first"
    ) -> None:
        """Takes `num_layers` of the teacher's layers, and of each what matters most.

        By default the first layers: they are the ones made for what enters the slice. Which are
        best differs from slice to slice, and no loss within the slice tells; `auto` asks the model
        around it. How heads, queries, keys, values and neurons are chosen is said, with the papers,
        at `slicewise.students.reduction`. Where there are fewer layers than the teacher's, and
        batches, the last of them is fitted to what the whole slice returns. What is kept whole is
        copied: a student with all sizes of the teacher's is the teacher.

        Args:
            teacher: Of an architecture that has an adapter.
            batches: What enters the slice.
            keep: `first`; `last`; the layers themselves, counted from the slice's first; `auto`:
                those that do the least damage (`slicewise.students.keep.take_best`).

        Raises:
            ArgumentError: The student has more of something than the teacher, or there are no such
                layers to keep.
            SlicewiseError: No layer of ours computes what the teacher's layers do.
        """
        num_layers = self.config["num_layers"]
        read_layers(teacher, num_layers)
        geometry = Geometry.of(teacher)
        check_hidden_size(self, teacher)
        narrowed = ("num_attention_heads", "attention_hidden_size", "intermediate_size")
        check_at_most(self, {name: getattr(geometry, name) for name in narrowed})
        heads = self.config["num_attention_heads"]
        check_at_most(self, {"value_dim": heads * geometry.attention_hidden_size})
        check_architecture(self, geometry)
        if not next(iter(self.encoder)).attention.narrows:
            check_same(self, {"attention_hidden_size": geometry.attention_hidden_size})

        batches = list(batches)
        tried = choices(keep, num_layers, geometry.num_layers)
        source = read_layers(teacher, 1 + max(layers[-1] for layers in tried))
        moments = layer_moments(source, batches)

        def take(layers: tuple[int, ...]) -> None:
            take_kinds(self, geometry, layers)
            for ours, layer in zip(self.encoder, layers, strict=True):
                theirs, seen = list(source)[layer], moments[layer]
                reduce_attention(theirs.attention, ours.attention, seen)
                reduce_feed_forward(theirs.feed_forward, ours.feed_forward, seen)
            # One that runs several times cannot be fitted to what the last of them is to return.
            if num_layers < geometry.num_layers and not source.is_tied:
                last = f"encoder.layers.{num_layers - 1}.feed_forward"
                fit_to_slice(self, last, read_layers(teacher, geometry.num_layers), batches)

        take_best(self, teacher, batches, tried, take)
