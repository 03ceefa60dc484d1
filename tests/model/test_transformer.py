"""The transformer against torch's own attention."""

import torch
from support.small_bags import SEEDS, SIZES, embeddings, instances, pooling
from torch import Tensor, nn
from torch.nn import functional

from mil_toolkit.model.transformer import Transformer


def test_the_transformer_is_that_of_torch() -> None:
    pool, x = pooling("transformer"), embeddings()
    assert isinstance(pool, Transformer)
    for k in range(len(SEEDS)):
        for b, bag in enumerate(x[k].split(SIZES)):
            torch.testing.assert_close(pool(instances(x))[k, b], transformed(pool, k, bag))


def transformed(pool: Transformer, k: int, bag: Tensor) -> Tensor:
    """Member k's output for one bag (n, D), by torch's own attention."""
    layer = nn.MultiheadAttention(pool.width, pool.HEADS, batch_first=True)
    state = {
        "in_proj_weight": pool.query_key_value.weight[k].T,
        "in_proj_bias": pool.query_key_value.bias[k, 0],
        "out_proj.weight": pool.mix.weight[k].T,
        "out_proj.bias": pool.mix.bias[k, 0],
    }
    layer.load_state_dict(state)
    h = bag @ pool.embed.weight[k] + pool.embed.bias[k]
    normal = functional.layer_norm(h, h.shape[-1:])[None]
    h = h + layer(normal, normal, normal)[0][0]
    wide = torch.relu(functional.layer_norm(h, h.shape[-1:]) @ pool.widen.weight[k] + pool.widen.bias[k])
    h = h + wide @ pool.narrow.weight[k] + pool.narrow.bias[k]
    weights = (h @ pool.score.weight[k]).softmax(0)
    return (weights * h).sum(0)
