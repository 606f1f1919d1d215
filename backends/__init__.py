"""Where programs run: one package a backend, found by name when it is first asked for."""

if __name__ != "graphc.backends":
    raise ImportError("import it as graphc.backends: a second copy would compile everything twice")
