"""Dataset, recipe, fit, evaluation: how a model package is made."""
