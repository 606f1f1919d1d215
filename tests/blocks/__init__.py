"""Every block beside its PyTorch counterpart, from tables of samples."""
