"""Fit a network: recipes' stages on cached features, with checkpoints and cross-validation."""
