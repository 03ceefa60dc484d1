"""Poolings that combine the instances of a bag column by column."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import Linear
from mil_toolkit.model.weighted import Mean


class MeanStd(Mean):
    """Mean and standard deviation of each column (statistics pooling); Okabe et al. 2018, eq. 1 and 2."""

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__(inputs, config, generators)
        self.width = 2 * inputs

    def forward(self, bags: Instances) -> Tensor:
        x = bags.standardised()  # in float32: in bfloat16, the variance could be smaller than its error
        mean = bags.bag_means(x)
        variance = bags.bag_means((x - mean[:, bags.bag]).square())
        varies = variance > 0  # the root has no gradient at 0, as of a bag of one instance
        deviation = torch.where(varies, variance, 1.0).sqrt() * varies
        return torch.cat([mean, deviation], -1)


class Max(nn.Module):
    """Max pooling: the highest value of each column over the bag."""

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__()
        self.width = inputs

    def forward(self, bags: Instances) -> Tensor:
        return column_maxima(bags, self._candidates(bags))

    def attention(self, bags: Instances) -> Tensor:
        """Return the share of columns in which an instance holds the bag's maximum: (K, n)."""
        x = self._candidates(bags)
        won = (x == column_maxima(bags, x)[:, bags.bag]).float()
        return (won / bags.bag_sums(won)[:, bags.bag]).mean(-1)

    def _candidates(self, bags: Instances) -> Tensor:
        x = bags.standardised()
        return x if bags.kept is None else x.masked_fill(~bags.kept[..., None], -math.inf)


def column_maxima(bags: Instances, x: Tensor) -> Tensor:
    """Return the highest value of each column over each bag: (K, n, O) -> (K, B, O)."""
    start = x.new_full((len(x), len(bags.sizes), x.shape[-1]), -math.inf)
    return start.scatter_reduce(1, bags.bag[None, :, None].expand_as(x), x, "amax")


class LogSumExp(nn.Module):
    """Smooth maximum of `hidden` instance detectors; Ramon and De Raedt 2000.

    Each detector is a linear layer d. Its value for a bag of n instances is
    log((1/n) sum_i exp(r d_i)) / r, which grows with the learned sharpness r > 0 from the mean to the maximum
    of the bag, so that the data decide whether all instances count or only the strongest. It starts at r = 1.

    It stands in place of the pseudo-bags of DTFD-MIL (Zhang et al. 2022), random parts of a bag that inherit
    its label. Where one instance decides, all parts but one would be mislabelled, and a prediction from
    random parts depends on a draw or on the order of the instances. Here all instances of a bag have a part
    in the gradient too. To train on random parts of bags, use `instance_dropout`.
    """

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__()
        self.width = config.hidden
        self.detect = Linear(inputs, config.hidden, generators)
        device = generators[0].device
        self.log_sharpness = nn.Parameter(torch.zeros(len(generators), 1, config.hidden, device=device))

    def forward(self, bags: Instances) -> Tensor:
        exponents = self._exponents(bags)
        highest = column_maxima(bags, exponents).detach()  # it cancels out
        sums = bags.bag_sums(torch.exp(exponents - highest[:, bags.bag]))  # (K, B, H)
        counts = bags.bag_sums(bags.present()[..., None].float())  # (K, B, 1)
        return (highest + torch.log(sums / counts)) / self.log_sharpness.exp()

    def attention(self, bags: Instances) -> Tensor:
        """Return an instance's mean share over the detectors in the gradient of a bag: (K, n)."""
        exponents = self._exponents(bags)
        parts = torch.exp(exponents - column_maxima(bags, exponents)[:, bags.bag])
        return (parts / bags.bag_sums(parts)[:, bags.bag]).mean(-1)

    def _exponents(self, bags: Instances) -> Tensor:
        """Return r d of each instance, (K, n, H); -inf for instances that dropout leaves out."""
        exponents = bags.linear(self.detect).float() * self.log_sharpness.exp()
        return exponents if bags.kept is None else exponents.masked_fill(~bags.kept[..., None], -math.inf)


class NoisyAnd(nn.Module):
    """Noisy-and over `hidden` instance detectors; Kraus et al. 2016, eq. 4, with slope a = 10.

    Each detector is a sigmoid of a linear layer. Its mean p over the bag is mapped to
    (s(a (p - b)) - s(-a b)) / (s(a (1 - b)) - s(-a b)), where s is the sigmoid and b the detector's learned
    threshold.
    """

    SLOPE = 10.0

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__()
        self.width = config.hidden
        self.detect = Linear(inputs, config.hidden, generators)
        self.threshold = nn.Parameter(
            torch.full((len(generators), 1, config.hidden), 0.5, device=generators[0].device)
        )

    def forward(self, bags: Instances) -> Tensor:
        mean = bags.bag_means(self._detected(bags))  # (K, B, H)
        low = torch.sigmoid(-self.SLOPE * self.threshold)
        high = torch.sigmoid(self.SLOPE * (1 - self.threshold))
        return (torch.sigmoid(self.SLOPE * (mean - self.threshold)) - low) / (high - low)

    def attention(self, bags: Instances) -> Tensor:
        """Return an instance's share of the sum of all detections in its bag: (K, n)."""
        detections = self._detected(bags).sum(-1, keepdim=True) * bags.present()[..., None]
        return (detections / bags.bag_sums(detections)[:, bags.bag]).squeeze(-1)

    def _detected(self, bags: Instances) -> Tensor:
        return torch.sigmoid(bags.linear(self.detect).float())
