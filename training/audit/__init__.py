"""Check labelled radiographs before training."""
