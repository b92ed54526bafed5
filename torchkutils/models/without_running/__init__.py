"""The structure of a model that does not run."""
