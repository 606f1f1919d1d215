"""How fast graphc is next to what people would use instead. ``python -m benchmarks --help``."""
