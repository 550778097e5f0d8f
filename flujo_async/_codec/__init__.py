"""One codec for all backends: Python values to JSON trees with typed tags, and back.

``tree`` is bytes and trees; ``values`` has ``Codec``, the way in and out; ``exceptions`` stores what was raised;
``registry`` and ``reachable`` say which classes may be built; ``shape`` and the ``*_shapes`` modules say how.
"""
