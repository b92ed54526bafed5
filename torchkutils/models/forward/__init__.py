"""One watched forward."""
