"""Attacks on one's own task: what an update, a sum, a relay and the model give away.

Each attack is a pure function of what its attacker sees; `trial` makes what that is out of a
configuration, `audit` runs them all, `report` writes what came out. `fedbus audit` is `command`.
"""
