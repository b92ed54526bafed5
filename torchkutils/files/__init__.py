"""Files from elsewhere: cache rules, transfer, verification, extraction."""
