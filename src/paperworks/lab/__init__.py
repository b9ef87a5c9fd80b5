"""The laboratory: how a claim is tested. Knows no paper.

`Study` (what is measured), `Claim` and `judge` (what is concluded), `Store` and `runner` (how trials are run and kept),
`report` (what is shown).
"""
