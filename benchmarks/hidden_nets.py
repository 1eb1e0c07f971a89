"""The networks of the study of hidden layers, and the multiplications that each one makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hashdl import HashConfig, HashMLP
from hashdl.costs import hashing_work, observing_work, renewal_work
from hashdl.nn import HashHidden, HashLinear
from hashdl.nn.mlp import groups_for_active, scale_for_active

#: Step by which adaptive dropout's offset follows the wanted share.
_OFFSET_RATE = 1.0

#: As published (section 5): K = 6, L = 5, about 10 probes, all that is found, plain SimHash.
PUBLISHED = HashConfig(
    bits=6, tables=5, probes=10, selection="union", center=False, balance=False, sparse_grad=True
)
#: Ours: all neurons of a layer are ranked in the few coordinates in which their outputs vary most:
#: a layer so narrow needs no more than one bit, both buckets of which are read. Three tenths of the
#: active ones are random: neurons that no sample chooses would never learn.
OURS = HashConfig(
    rank=12,
    selection="sketch",
    bits=1,
    tables=1,
    probes=2,
    cap=1 << 20,
    candidates=1 << 20,
    random=0.3,
    rehash_every=100,
    sparse_grad=True,
)
#: Times as many neurons are active after the first layer, where few inputs are: they cost little.
OURS_DEEPER = 2.0
#: Outputs count above the mean of those found, less half a standard deviation (HashMLP's above).
OURS_ABOVE = -0.5

#: Ours where neurons are many: those of the nearest centroids alone are ranked.
WIDE = OURS.replace(
    rank=24, family="kmeans", bits=None, random=0.2, rehash_every=None, rehash_growth=1.1
)
#: Of these outputs count above the mean itself: what their figures were measured with.
WIDE_ABOVE = 0.0


def widened(config: HashConfig, neurons: int, active: int, growth: float) -> HashConfig:
    r"""A configuration for a layer of so many neurons.

    Args:
        config: such as :data:`WIDE`.
        neurons: N.
        active: A of 1000 neurons; :math:`A (N / 1000)^{growth}` of N.
        growth: see ``active``.

    Returns:
        It probes :math:`2^{2 + K/3}` buckets: ever less of all, as there are more of them.
    """
    K = config.sizes(neurons).K
    return config.replace(
        probes=min(round(2 ** (2 + K / 3)), 2**K), active=round(active * (neurons / 1000) ** growth)
    )


class Work(NamedTuple):
    """Multiplications a sample.

    Attributes:
        train: of a training step: forward, both gradients, hashing, ranking and rehashes.
        test: of a prediction.
    """

    train: float
    test: float

    def __add__(self, other: object) -> Work:
        assert isinstance(other, Work)
        return Work(self.train + other.train, self.test + other.test)


class Net(nn.Module):
    """A network that counts its work."""

    def multiplications(self, inputs: Tensor, batch: int) -> Work:
        """Mean work a sample.

        Args:
            inputs: some samples, for what depends on them.
            batch: samples a step, over which a rehash is spread.
        """
        raise NotImplementedError

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """For Adam: layers drawn for few active inputs step as HashMLP's do.

        Args:
            rate: of the first layer.
        """
        raise NotImplementedError


def linear_work(rows: float, inputs: float, *, first: bool, ranked: float | None = None) -> Work:
    """Work of a layer whose ``rows`` active neurons have ``inputs`` active inputs.

    Args:
        rows: active neurons.
        inputs: active inputs.
        first: no gradient of the inputs is wanted.
        ranked: neurons that are computed to find the active ones; None: those alone.
    """
    forward = (rows if ranked is None else ranked) * inputs
    return Work(forward + (1 if first else 2) * rows * inputs, forward)


class DenseNet(Net):
    """Dense layers of which ``choose`` says what becomes of their outputs.

    Args:
        sizes: of input, hidden layers and output.
        share: of the neurons that are active.
    """

    def __init__(self, sizes: Sequence[int], share: float) -> None:
        super().__init__()
        self.sizes, self.share = sizes, share
        self.layers = nn.ModuleList(nn.Linear(d, n) for d, n in pairwise(sizes))
        for layer, share in self._shares():
            scale_for_active(layer, share)

    def _shares(self) -> Iterator[tuple[nn.Module, float]]:
        """Each layer, and the share of its inputs for which it is drawn."""
        return zip(self.layers, [1.0, *map(self.scaled, self.sizes[1:-1])], strict=True)

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """See :class:`Net`."""
        return groups_for_active(self._shares(), rate)

    def scaled(self, n: int) -> float:
        """Share of n neurons for which the next layer is drawn, as HashMLP's layers are."""
        return self.active(n) / n

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        *hidden, output = self.layers
        for number, layer in enumerate(hidden):
            x = self.choose(layer(x), number)
        logits: Tensor = output(x)
        return logits

    def choose(self, z: Tensor, number: int) -> Tensor:
        """Outputs of hidden layer ``number``, from what it computed."""
        return z.relu()

    def active(self, n: int) -> int:
        """Active neurons of n."""
        return max(1, round(self.share * n))

    #: Whether all neurons are computed to find the active ones, and whether a test uses all.
    ranks, tests_all = False, True

    def multiplications(self, inputs: Tensor, batch: int) -> Work:
        """See :class:`Net`."""
        work, last = Work(0, 0), len(self.sizes) - 2
        for number, (d, n) in enumerate(pairwise(self.sizes)):
            first, output = number == 0, number == last
            active_in = d if first else self.active(d)
            rows = n if output else self.active(n)
            ranked = n if self.ranks else None
            train = linear_work(rows, active_in, first=first, ranked=ranked).train
            test = n * (d if self.tests_all else active_in)
            work += Work(train, test)
        return work


class Standard(DenseNet):
    """All neurons, always."""

    def active(self, n: int) -> int:
        """All."""
        return n


class Dropout(DenseNet):
    """Neurons are active at random (Srivastava et al., JMLR 2014)."""

    def scaled(self, n: int) -> float:
        """All: outputs are scaled instead."""
        return 1.0

    def choose(self, z: Tensor, number: int) -> Tensor:
        """A mask, and the scale that makes up for it."""
        return nn.functional.dropout(z.relu(), 1 - self.share, self.training)


class AdaptiveDropout(DenseNet):
    """Neurons are active with probability sigmoid(z + offset) (Ba and Frey, NIPS 2013).

    The offset of a layer follows the wanted share. A test takes the expected outputs.
    """

    ranks = True

    def __init__(self, sizes: Sequence[int], share: float) -> None:
        super().__init__(sizes, share)
        self.register_buffer("offsets", torch.full((len(sizes) - 2,), share).logit())
        self.offsets: Tensor

    def choose(self, z: Tensor, number: int) -> Tensor:
        """A mask by probability, or the probability."""
        keep = (z.detach() + self.offsets[number]).sigmoid()
        if not self.training:
            return z.relu() * keep
        self.offsets[number] += _OFFSET_RATE * (self.share - keep.mean()) / self.share
        return z.relu() * torch.bernoulli(keep)


class WinnerTakeAll(DenseNet):
    """The neurons with the largest outputs, exactly (Makhzani and Frey, NIPS 2015)."""

    ranks, tests_all = True, False

    def choose(self, z: Tensor, number: int) -> Tensor:
        """All but the largest set to 0."""
        kept = z.detach().topk(self.active(z.shape[1]), dim=1).indices
        return z.relu() * torch.zeros_like(z).scatter_(1, kept, 1)


class Hashed(Net):
    """HashMLP with as many active neurons a layer.

    Args:
        sizes: of input, hidden layers and output.
        share: of the neurons that are active.
        config: how they are found.
        deeper: times as many are active after the first layer, where inputs are few.
        above: see HashMLP.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        share: float,
        config: HashConfig,
        deeper: float = 1.0,
        *,
        above: float | None = None,
    ) -> None:
        super().__init__()
        shares = [share, *[share if deeper == 1 else min(deeper * share, 1.0)] * (len(sizes) - 3)]
        configs = [_sharing(config, some, n) for some, n in zip(shares, sizes[1:-1], strict=True)]
        self.net = HashMLP(*(sizes[0], sizes[1:-1], sizes[-1]), config=configs, above=above)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.net(x)
        return logits

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """See :class:`Net`."""
        return self.net.parameter_groups(rate)

    @torch.no_grad()
    def multiplications(self, inputs: Tensor, batch: int) -> Work:
        """See :class:`Net`. Additions of a sketch's ranking count as multiplications."""
        training = self.training
        self.eval()
        active, work = inputs, Work(0, 0)
        active_in = Mean(inputs.shape[1], inputs.shape[1])
        for number, layer in enumerate(self.net.hidden):
            assert isinstance(layer, HashHidden)
            following = layer(active)
            kept = _kept(layer.hashed, active, following[0])
            work += _hidden_work(layer.hashed, active, active_in, kept, batch, first=number == 0)
            work += _level_work(layer, kept)
            active, active_in = following, kept
        self.train(training)
        n = self.net.output.out_features
        return work + _linear_work(Mean(n, n), active_in, first=False)


def _sharing(config: HashConfig, share: float, n: int) -> HashConfig:
    """A configuration with so many active of n neurons; a test has none in place of random ones."""
    config = config.replace(active=share)
    sizes = config.sizes(n)
    return config.replace(active_eval=max(1, sizes.A - sizes.R)) if sizes.R else config


class Mean(NamedTuple):
    """Mean number a sample of something.

    Attributes:
        train: in a training step.
        test: in a prediction.
    """

    train: float
    test: float


def _linear_work(rows: Mean, inputs: Mean, *, first: bool) -> Work:
    train = linear_work(rows.train, inputs.train, first=first).train
    return Work(train, linear_work(rows.test, inputs.test, first=first).test)


def _found(hashed: HashLinear, inputs: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """How many candidates the tables find for each input, float (B,)."""
    assert hashed.tables is not None
    x = _dense(inputs, hashed.in_features)
    found = hashed.tables.lookup(x, has_bias=hashed.bias is not None)
    return (found >= 0).sum(1).float()


def _kept(hashed: HashLinear, inputs: Tensor | tuple[Tensor, Tensor], rows: Tensor) -> Mean:
    """Active neurons, of which a test has ``rows``."""
    test = float((rows >= 0).sum(1).float().mean())
    if hashed.tables is None:
        return Mean(test, test)
    sizes, found = hashed.tables.sizes, _found(hashed, inputs)
    # Training has random ones, and may have more or fewer of the others.
    more = found.clamp(max=sizes.A - sizes.R) + sizes.R - found.clamp(max=sizes.E)
    return Mean(test + float(more.mean()), test)


def _hidden_work(
    hashed: HashLinear,
    inputs: Tensor | tuple[Tensor, Tensor],
    active_in: Mean,
    kept: Mean,
    batch: int,
    *,
    first: bool,
) -> Work:
    """Work of a hashed layer for inputs, dense or active."""
    N, d = hashed.weight.shape
    work = _linear_work(kept, active_in, first=first)
    if hashed.tables is None:
        return work
    found = float(_found(hashed, inputs).mean())
    train, test = (
        _finding_work(hashed.config, N, d, round(met), found, found - rows)
        for met, rows in zip(active_in, kept, strict=True)
    )
    config, counts = hashed.config, hashed.tables.stats()
    steps = counts["step"] / counts["rehashes"] if counts["step"] else hashed.tables.rehash_every
    upkeep = renewal_work(config, N, d) / (steps * batch) + observing_work(config, d)
    return work + Work(train + upkeep, test)


def _level_work(layer: HashHidden, kept: Mean) -> Work:
    """Work of the outputs' deviation, if they count above a level with some: squares, mostly."""
    return Work(3 * kept.train, kept.test) if layer.above else Work(0, 0)


def _finding_work(
    config: HashConfig, N: int, d: int, active_in: int, found: float, left: float
) -> float:
    """Multiplications of hashing a sample and ranking what is found, of which some are left out."""
    ranking = 0.0
    if config.selection == "exact":  # the others are computed anyway
        ranking = left * active_in
    elif config.selection == "sketch":
        ranking = found * (config.rank or config.sketch_coordinates)
    # A low rank is met by the inputs that are not zero.
    return ranking + hashing_work(config, N, active_in if config.rank else d)


def _dense(inputs: Tensor | tuple[Tensor, Tensor], d: int) -> Tensor:
    if isinstance(inputs, Tensor):
        return inputs
    rows, values = inputs
    at = torch.where(rows < 0, d, rows).long()
    return values.new_zeros(values.shape[0], d + 1).scatter_(1, at, values)[:, :d]


#: Makes a network from sizes and a share.
Factory = Callable[[Sequence[int], float], Net]


def make_methods(ours: HashConfig) -> Mapping[str, Factory]:
    """Networks by the name of the method.

    Args:
        ours: how ``hashed`` finds its neurons.
    """
    return {
        "standard": Standard,
        "dropout": Dropout,
        "adaptive_dropout": AdaptiveDropout,
        "winner_take_all": WinnerTakeAll,
        "hashed_published": lambda sizes, share: Hashed(sizes, share, PUBLISHED),
        "hashed": lambda sizes, share: Hashed(sizes, share, ours, OURS_DEEPER, above=OURS_ABOVE),
    }


#: Methods whose share of active neurons is chosen.
NAMES = tuple(make_methods(OURS))
