"""The command server of mil-extract."""

import functools

from mil_toolkit.cli.extract import main
from mil_toolkit.features import extract as extraction
from support.command_server import serve

if __name__ == "__main__":
    extraction.PATIENTS_PER_SHARD = 2  # or a tiny cohort would be one shard
    extraction.build_backbone = functools.cache(extraction.build_backbone)
    extraction.build_backbone("resnet18", "random")
    serve(main)
