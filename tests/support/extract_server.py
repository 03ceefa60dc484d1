"""The command server of mil-extract."""

import functools

from mil_toolkit.backbones import backbones
from mil_toolkit.cli.extract import main
from mil_toolkit.features import update
from support.command_server import serve

if __name__ == "__main__":
    update.SHARD_LIMITS = update.SHARD_LIMITS._replace(patients=2)  # else a tiny cohort is one shard
    backbones.build_backbone = functools.cache(backbones.build_backbone)
    backbones.build_backbone("resnet18", "random", 32)
    serve(main)
