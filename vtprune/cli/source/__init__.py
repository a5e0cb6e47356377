"""Reading source: what a plugin's modules state, told without importing them.

`vtprune describe` answers in a moment because it reads class statements instead of running them. Start at
`vtprune.cli.source.component`; names are followed by `vtprune.cli.source.scope`.
"""
