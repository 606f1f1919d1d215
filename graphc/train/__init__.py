"""Training loops on compiled executables: fit, evaluate, metrics, callbacks."""
