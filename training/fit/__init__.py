"""Fit a network: a recipe's stages on cached features, with checkpoints."""
