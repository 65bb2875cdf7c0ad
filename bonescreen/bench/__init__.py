"""What `bonescreen bench` measures: one module for each part, and the page that is made from the numbers."""
