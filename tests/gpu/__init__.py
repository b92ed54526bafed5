"""What CUDA decides. `make test-gpu` runs it where there is a GPU; elsewhere the tests are skipped."""
