"""A trace as the tree of items that an interactive page shows: modules, groups of equal ones, functions, ends."""
