"""Programs as users write them, compiled, with numbers equal to PyTorch's."""
