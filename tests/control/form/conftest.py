"""The room is unfinished: it has no `card.toml` yet, so nothing lists or runs it. Its tests wait with it."""

collect_ignore_glob = ["test_*.py"]
