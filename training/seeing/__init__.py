"""What a network sees: activations, class activation maps at any layer, and whether those maps may be believed."""
