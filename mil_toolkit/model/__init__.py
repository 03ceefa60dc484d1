"""The head: pooling, metadata branch and classifier of K models at once; needs only torch."""
