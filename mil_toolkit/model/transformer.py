"""`Transformer`: a pooling in which the instances of a bag attend to each other first."""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import Linear
from mil_toolkit.model.weighted import by_head


class Transformer(nn.Module):
    """A transformer block in which a bag's instances attend to each other, then linear-score attention.

    The block is that of Vaswani et al. 2017 with pre-normalisation and without positions, since a bag has no
    order. Together with the pooling by attention it is a small Set Transformer (Lee et al. 2019).

    heads: number of scores, each of which pools the same instances
    """

    HEADS = 4

    def __init__(
        self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator], heads: int = 1
    ):
        super().__init__()
        self.width, self.heads = config.hidden, heads
        hidden = config.hidden
        self.embed = Linear(inputs, hidden, generators)
        self.query_key_value = Linear(hidden, 3 * hidden, generators)
        self.mix = Linear(hidden, hidden, generators)
        self.widen = Linear(hidden, 2 * hidden, generators)
        self.narrow = Linear(2 * hidden, hidden, generators)
        self.score = Linear(hidden, heads, generators, zero=config.zero_start, bias=False)

    def forward(self, bags: Instances) -> Tensor:
        x = self._block(bags)
        return by_head(bags.repeated(self.heads).averages(self._scores(x), x), self.heads)

    def attention(self, bags: Instances) -> Tensor:
        scores = self._scores(self._block(bags))
        return by_head(bags.repeated(self.heads).shares(scores), self.heads)

    def _scores(self, x: Tensor) -> Tensor:
        """Return the scores of the instances, (K * heads, n)."""
        return self.score(x).transpose(1, 2).flatten(0, 1)

    def _block(self, bags: Instances) -> Tensor:
        precision = bags.x.dtype  # of the products; sums stay in float32
        x = bags.linear(self.embed).float()  # (K, n, H)
        x = x + self.mix(self._attend(_normalise(x).to(precision), bags))
        return x + self.narrow(torch.relu(self.widen(_normalise(x).to(precision))))

    def _attend(self, x: Tensor, bags: Instances) -> Tensor:
        """Apply multi-head self-attention within each bag: (K, n, H) -> (K, n, H)."""
        # In float32, because on a CPU torch's gradient takes twice as long in bfloat16. Bag by bag, because
        # with bags padded to the longest most of the work would go into padding.
        joint = self.query_key_value(x).float().unflatten(-1, (3, self.HEADS, -1)).permute(2, 0, 3, 1, 4)
        present = bags.present()[:, None, None]  # (K, 1, 1, n)
        with _same_bits_each_time(x.device):
            mixed = [
                functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
                for (query, key, value), mask in zip(
                    joint.split(list(bags.sizes), 3), present.split(list(bags.sizes), 3), strict=True
                )
            ]
        return torch.cat(mixed, 2).transpose(1, 2).flatten(2).to(x.dtype)


def _same_bits_each_time(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Exclude the fused attention of CUDA, whose gradient adds in a random order; that of CPUs does not."""
    return contextlib.nullcontext() if device.type == "cpu" else sdpa_kernel(SDPBackend.MATH)


def _normalise(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])
