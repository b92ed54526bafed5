"""A model, its inputs and the random state, put back as they were."""
