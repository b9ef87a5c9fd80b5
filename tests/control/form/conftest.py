"""The room is unfinished and unlisted (no `card.toml`): its study cannot be found yet, and its scores are not right."""

collect_ignore = ["test_scoring.py", "test_study.py"]
