"""Lightning, loaded before all that imports it, and without a module that only its library of metrics asks for.

That library loads scipy's signal processing to give it back one old name. Nothing here uses it, and it takes long.
"""

from __future__ import annotations

from segflow.execution.late_modules import loaded_when_used

with loaded_when_used("scipy.signal", hamming=None):
    import pytorch_lightning  # noqa: F401
