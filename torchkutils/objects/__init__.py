"""Names and files for live objects: scopes, configs, tensors in HDF5, model files."""
