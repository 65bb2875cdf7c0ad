"""The network, its engines, class activation maps, heat maps and model packages."""
