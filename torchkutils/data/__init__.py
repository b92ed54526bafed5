"""Data sets and their loaders: HDF5 windows, batch sequences, chunk shuffling, enqueuers."""
