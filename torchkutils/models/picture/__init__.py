"""The drawn graph: boxes, labels, DOT."""
