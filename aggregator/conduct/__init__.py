"""How devices behave: what is counted of each, what it adds up to, and who is kept out. Pure.

`evidence` says what counts and how much, `meter` how many messages a device may send, `habits`
what is unusual for it; `book` puts them together into a score and a standing.
"""
