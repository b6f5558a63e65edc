"""The ``fedbus`` command line: the composition root. It may import everything; nothing imports it.

One module a command group: `demo`, `aggregator`, `watch` (and ``status``), `init`, `broker`;
`app` puts them together.
"""
