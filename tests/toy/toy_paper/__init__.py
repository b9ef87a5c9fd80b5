"""A room outside the package, which joins through the entry-point group."""

__all__: list[str] = []
