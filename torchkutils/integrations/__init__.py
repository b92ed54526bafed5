"""What joins torchkutils to trainers: one module for each, imported by whoever uses it and never by the package."""
