"""Two models compared: which module of the one is which of the other, and what differs between the two."""
