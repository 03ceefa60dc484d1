"""Named search spaces, and the starting points that searches try first."""

from collections.abc import Mapping

from mil_toolkit.config.tunable import Settings, Value

PRESETS: dict[str, Settings] = {
    "default": {},
    "founding": {
        "standardise": (False,),
        "components": (0,),
        "pooling": ("attention",),
        "top_k": (8,),
        "hidden": (128,),
        "zero_start": (False,),
        "logistic_start": (False,),
        "metadata_branch": ("mlp",),
        "metadata_dropout": (0.2,),
        "fusion": ("concat",),
        "auxiliary": (0.0,),
        "embedding_dropout": (0.0,),
        "instance_dropout": (0.0,),
        "class_weights": (False,),
        "optimizer": ("adam", "sgd"),  # the report's choice is tried first
        "momentum": (0.0,),
        "learning_rate": (0.001, 0.005, 0.01),
        "gamma": (0.9,),
        "weight_decay": (0.0,),
    },
    "wide": {
        "components": (0, 16, 32, 64, 128),
        "instance_layers": (0, 1, 2),
        "pooling": ("attention", "gated-attention", "mean", "mean-std", "log-sum-exp", "dsmil"),
        "zero_start": (True, False),
    },
}

STARTS: dict[str, Mapping[str, Value]] = {
    "key-instance": {
        "components": 0,
        "pooling": "gated-attention",
        "zero_start": False,
        "embedding_dropout": 0.0,
        "instance_dropout": 0.0,
        "weight_decay": 0.01,
    },
    "instance-network": {
        "components": 0,
        "instance_layers": 2,
        "pooling": "gated-attention",
        "zero_start": False,
        "embedding_dropout": 0.0,
        "instance_dropout": 0.0,
        "weight_decay": 0.01,
    },
}
"""Starting points beside the defaults, for bags that one image decides. A search tries those that lie in its
space right after the defaults."""
