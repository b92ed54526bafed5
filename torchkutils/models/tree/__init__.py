"""The modules of a model as records, example inputs and totals."""
