"""Configurations of other brokers, made from the rules of `protocol.topics`.

One module a broker. Each is pure and has ``render(wanted)``, which returns the text of every file
by its name; `choice` lists them. README.md of `broker_config` says why each line is there.
"""
