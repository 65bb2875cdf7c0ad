"""The web pages and the JSON API: `bonescreen serve`."""
