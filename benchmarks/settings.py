"""What every peer must agree on. Imports nothing, since peak memory is measured too."""

__all__ = ["ADAM", "CHECKED_STEPS", "HEAD", "MLP_SIZES"]

ADAM = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
#: training steps whose losses are compared with the reference
CHECKED_STEPS = 3
MLP_SIZES = (784, 512, 512, 10)
#: width of an attention head
HEAD = 64
