"""A check-up of labelled radiographs before hours of training are spent on them."""
