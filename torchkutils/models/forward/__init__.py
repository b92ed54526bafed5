"""Records one forward of a model."""
