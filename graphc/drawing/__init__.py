"""How pictures are made: what is drawn (diagram, graph, kernels, schedule, executable) and how.

::

    program --diagram, graph, kernels--> Picture --layout (dot)--> Layout --render--> Scene
    program --schedule, executable-------------------------------------------------> Scene
    Scene --svg--> SVG text        Scene --raster (dot)--> PNG, PDF        Picture --dot--> DOT text

``graphc.draw`` chooses among them.
"""
