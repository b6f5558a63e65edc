"""What `fedbus doctor` asks of a live broker, from the aggregator's side and from a device's.

`examination` asks everything in turn; `findings` is what comes out. Every probe is published below
a task of its own (``doctor-...``), is bounded in number, bytes and time, and leaves nothing behind.
"""
