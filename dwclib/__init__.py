"""The library of the DWC book: Dynamic Weighted Combiner for mixed-modal image retrieval, one idea a file.

Import the module of the idea you need (``from dwclib.combiner import AdaptiveWeightedCombiner``);
this package itself imports nothing heavy.
"""

__version__ = "0.1.0"
