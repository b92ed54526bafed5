"""Looking at models: one trace, the summary and the picture drawn from it."""
