"""From a path to the bytes of a study's images: files, zips and tars, layouts, manifests."""
