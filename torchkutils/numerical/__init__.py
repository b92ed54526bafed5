"""Arrays and tensors of numbers."""
