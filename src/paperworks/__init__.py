"""paperworks: machine-learning papers as components to import, claims to run, and both on your own data.

>>> import paperworks
>>> paperworks.find("fnet").title
'FNet: Mixing Tokens with Fourier Transforms'

`paperworks.run("fnet", ...)` puts a paper's claim to the test and returns a `Run` with `.frame`, `.verdicts` and
`.figures`; components are imported from their area, e.g. `from paperworks.sequence import FourierMixing`.
"""

from paperworks._lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "Card": "catalog",
        "Limits": "lab.trials",
        "Options": "lab.run",
        "Run": "lab.run",
        "cards": "catalog",
        "find": "catalog",
        "run": "lab.run",
    },
)
__all__ = ["__version__", *_names]  # pyright: ignore[reportUnsupportedDunderAll]
