"""Files from elsewhere: downloaded once, checked, unpacked whole or not at all."""
